//! Every bound of the system, by name. A queue, a buffer, a retry or a message without a bound here is a defect.

/// Key groups: the unit in which keyed state is exchanged, kept and moved (Flink's max parallelism). Frozen: state
/// written with another number could not be read.
pub const KEY_GROUPS: u16 = 128;

/// Tasks of one operator: never more than there are key groups.
pub const PARALLELISM_MAX: usize = 128;

/// Messages decoded into one batch.
pub const BATCH_ROWS_MAX: usize = 8_192;

/// Payload bytes decoded into one batch; a single larger message is a batch of its own.
pub const BATCH_BYTES_MAX: usize = 16 << 20;

/// Rows collected before a plugin is called, so that the fixed cost of a call is spread.
pub const PLUGIN_CALL_ROWS_TARGET: usize = 4_096;

/// Rows per call when groups are evaluated, exported or reset.
pub const PLUGIN_GROUPS_PER_CALL_MAX: usize = 8_192;

/// Groups folded into others in one call: each may be large.
pub const PLUGIN_COMBINES_PER_CALL_MAX: usize = 256;

/// Groups from which it is judged whether folding one into another makes it larger.
pub const STATE_SAMPLE_GROUPS: usize = 64;

/// Bytes of state that one export call should return: what a call writes should still be in the caches when the host takes it.
pub const STATE_CHUNK_BYTES: u64 = 2 << 20;

/// Part of `memory_limit` in which the aggregation tasks together keep inputs since the last export, to bring a failed plugin
/// instance back.
pub const KEPT_INPUTS_SHARE: u64 = 8;

/// Failed parts of one batch after which the search for the rows that kill a plugin is given up.
pub const BISECTION_FAILURES_MAX: u32 = 500;

/// Captures of failed plugin calls in one folder; the first ones are kept.
pub const CAPTURES_MAX: usize = 20;

/// Batches that wait for a transform's new version while it is tried; others are not tried.
pub const TRIAL_BATCHES_WAITING_MAX: usize = 1;

/// Rows and state in one capture. A larger call is captured with its guilty rows only.
pub const CAPTURE_BYTES_MAX: usize = 64 << 20;

/// A plugin instance with less memory than this is never rebuilt to give memory back.
pub const REBUILD_BYTES_MIN: u64 = 64 << 20;

/// From this part of a task's share of `memory_limit` on, partitions ahead of the slowest are not read.
pub const MEMORY_TIGHT_PERCENT: u64 = 80;

/// From this part on the memory backend takes a checkpoint and stops the run.
pub const MEMORY_FULL_PERCENT: u64 = 95;

/// Linear memory that an instance can have, in shares: beyond its share a run has time for a checkpoint.
pub const MEMORY_HARD_FACTOR: u64 = 2;

/// From this part on the disk backend moves the coldest windows out. A guest's memory grows by doubling.
pub const MEMORY_SPILL_PERCENT: u64 = 45;

/// Rows between two looks at how much the state takes, where only the plugin itself knows.
pub const SIZE_EVERY_ROWS: usize = 65_536;

/// State files of one bucket of a deduplication; then it is written anew as one.
pub const FILES_PER_BUCKET_MAX: usize = 8;

/// Rows of windows without an end whose positions an upserting sink remembers; those written longest ago are looked up.
pub const ENDLESS_POSITIONS_MAX: usize = 1 << 20;

/// State files of an upserting sink's positions; then they are written anew as one.
pub const POSITION_FILES_MAX: usize = 8;

/// Identities of which an upserting sink has a table's files pruned value by value; with more, by their span.
pub const LOOK_UP_VALUES_MAX: usize = 200;

/// Packets waiting on one edge between two tasks.
pub const EDGE_PACKETS_MAX: usize = 4;

/// Checkpoints whose commits may wait for confirmation before the intake pauses.
pub const COMMITS_WAITING_MAX: usize = 8;

/// How often new partitions are looked for.
pub const DISCOVERY_INTERVAL_MS: u64 = 10_000;

/// Dropped or failed events shown in the log per node, before only the counter goes on.
pub const FIRST_OCCURRENCES_LOGGED: u64 = 5;

/// Swaps that a pipeline's history keeps.
pub const SWAPS_REMEMBERED_MAX: usize = 50;

/// Versions of an operator's plugin before the running one whose bytes are kept beside the checkpoints, to go back to, unless
/// the pipeline says how many.
pub const PLUGIN_VERSIONS_KEPT: usize = 3;
/// What a pipeline can ask for: [`SWAPS_REMEMBERED_MAX`] is where they are known from.
pub const PLUGIN_VERSIONS_KEPT_MAX: usize = 20;

/// Bytes of a plugin put there less long ago than this are not deleted: a swap that no checkpoint tells of may have.
pub const PLUGIN_UNTOUCHED_MS: i64 = 3_600_000;

/// Differences that a shadow's report shows one by one.
pub const SHADOW_DIFFERENCES_MAX: usize = 50;

/// Bytes of input and commands that wait for the version beside the active one; then the active one waits, too.
pub const COMPANION_QUEUE_BYTES_MAX: usize = 64 << 20;

/// Rows that a version beside the active one may refuse before it takes over: they are kept for the dead letters.
pub const COMPANION_REFUSED_ROWS_MAX: usize = 10_000;

/// Results that a fallback keeps, to give them again if it takes over.
pub const WITHHELD_RESULTS_MAX: usize = 1 << 20;
