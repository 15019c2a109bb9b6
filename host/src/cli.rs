//! The `millrace` command: arguments in, exit code out. `run()` is one match; each command is a module.
//!
//! Exit code 0: all was done. 2: the file or the arguments are wrong. 1: everything else.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::plugin::engine::compile_as_child;

pub mod check;
pub mod demo;
pub mod explain;
pub mod generate;
pub(crate) mod log;
pub mod open;
pub mod plan;
pub mod plugin;
pub mod query;
pub mod reach;
pub mod replay;
pub mod rollback;
pub mod run;
pub mod savepoint;
pub mod status;
pub mod stop;
pub mod swap;
pub mod watch;
mod write_back;

#[derive(Debug, Parser)]
#[command(
    name = "millrace",
    version,
    about = "Streaming pipelines whose logic is WebAssembly: Kafka in, Apache Iceberg out, exactly once.",
    after_help = "Examples:\n  millrace check pipelines/campaign_metrics.toml\n  millrace run pipelines/campaign_metrics.toml\n  \
                  millrace query 'SELECT * FROM lake.ads.campaign_metrics' -f pipelines/campaign_metrics.toml"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a pipeline file: everything that is wrong with it, at once, and the graph
    #[command(after_help = "Example:\n  millrace check pipelines/campaign_metrics.toml")]
    Check {
        /// the pipeline file
        file: PathBuf,
        /// how to print what was found
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Run a pipeline
    #[command(after_help = "Examples:\n  millrace run pipelines/campaign_metrics.toml\n  \
                      millrace run pipelines/campaign_metrics.toml --until-end    # what is there now, then exit\n  \
                      millrace run elsewhere.toml --from-savepoint /backups/monday")]
    Run(RunArgs),
    /// What a run would do with the last checkpoint and the tables: state kept, migrated, lost; columns added
    ///
    /// Exit code 0: a run would go on and lose nothing. 1: it would refuse, or lose state. 2: the file is wrong.
    #[command(after_help = "Examples:\n  millrace plan pipelines/campaign_metrics.toml\n  \
                      millrace plan pipelines/campaign_metrics.toml --drop-state metrics --format json")]
    Plan(plan::PlanArgs),
    /// Why a running pipeline has not closed a window: what each operator waits for
    #[command(after_help = "Examples:\n  millrace explain pipelines/campaign_metrics.toml\n  \
                      millrace explain campaign-metrics metrics\n  \
                      millrace explain campaign-metrics --format json\n  \
                      millrace explain campaign-metrics --api http://10.0.0.7:7070")]
    Explain(explain::ExplainArgs),
    /// What running pipelines do: rates, lag, plugins, state, the last swaps
    #[command(after_help = "Examples:\n  millrace status\n  millrace status campaign-metrics --watch\n  \
                      millrace status campaign-metrics --format json")]
    Status(status::StatusArgs),
    /// Replace a plugin in a running pipeline, or its configuration; the state is kept
    #[command(
        after_help = "Examples:\n  millrace swap campaign-metrics metrics target/plugins/campaign_metrics.wasm\n  \
                      millrace swap campaign-metrics metrics --config unique_users=hll\n  \
                      millrace swap campaign-metrics metrics new.wasm --shadow 10m --promote-if-equal --tolerance 0.001"
    )]
    Swap(swap::SwapArgs),
    /// Go back to the version of a plugin that ran before
    #[command(after_help = "Example:\n  millrace rollback campaign-metrics metrics")]
    Rollback(rollback::RollbackArgs),
    /// End a running pipeline: checkpoint, commit, exit
    #[command(after_help = "Examples:\n  millrace stop campaign-metrics\n  \
                      millrace stop campaign-metrics --savepoint /backup/before-upgrade\n  \
                      millrace stop campaign-metrics --drain        # windows that are open give their results now")]
    Stop(stop::StopArgs),
    /// Take a checkpoint and copy it, with all that it needs, into a folder
    #[command(after_help = "Example:\n  millrace savepoint campaign-metrics /backup/before-upgrade")]
    Savepoint(savepoint::SavepointArgs),
    /// Write seeded ad events into a file or a Kafka topic
    #[command(after_help = "Examples:\n  millrace generate events.jsonl --count 100000\n  \
                      millrace generate --kafka localhost:9092 --topic ads-campaign-events --count 1000000")]
    Generate(GenerateArgs),
    /// SQL over the tables of a pipeline's catalogs
    #[command(
        after_help = "Examples:\n  millrace query 'SELECT * FROM lake.ads.campaign_metrics LIMIT 10' -f pipelines/demo.toml\n  \
                      millrace query 'SELECT count(*) FROM lake.ads.campaign_events' -f pipelines/demo.toml --as-of 2026-01-31T12:00:00Z"
    )]
    Query(QueryArgs),
    /// Run a failed call of a plugin again, from its capture; exit code 0: it succeeds now
    #[command(after_help = "Examples:\n  millrace replay state/captures/metrics-0001\n  \
                      millrace replay state/captures/metrics-0001 --plugin target/plugins/fixed.wasm\n  \
                      millrace replay state/captures/metrics-0001 --rows guilty --format json")]
    Replay(ReplayArgs),
    /// The campaign pipeline on an embedded source of events, with live results
    #[command(after_help = "Example:\n  millrace demo --rate 20000")]
    Demo(DemoArgs),
    /// Compile a plugin from standard input to standard output: what `millrace` starts for itself
    #[command(hide = true)]
    CompilePlugin { memory_bytes: u64, cpu_seconds: u64 },
    /// Write, build and test plugins
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Table,
    Json,
    Csv,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// the pipeline file
    pub file: PathBuf,
    /// read what is there at the start, close all windows, commit, exit
    #[arg(long)]
    pub until_end: bool,
    /// with --until-end: leave windows open for a later run
    #[arg(long, requires = "until_end")]
    pub keep_open: bool,
    /// forget the checkpoints at the location and start anew (tables that carry a claim still refuse)
    #[arg(long)]
    pub fresh: bool,
    /// begin with this savepoint, at a checkpoint location that is empty
    #[arg(long, value_name = "DIR")]
    pub from_savepoint: Option<PathBuf>,
    /// swap in plugins whose files change while it runs: for whoever writes them
    #[arg(long)]
    pub watch: bool,
    /// begin this operator, source or sink without its state
    #[arg(long, value_name = "NODE")]
    pub drop_state: Vec<String>,
    /// read this source from somewhere else than the checkpoint says
    #[arg(long, value_name = "SOURCE=earliest|latest|RFC3339")]
    pub reset_offsets: Vec<String>,
    /// where the API listens: an address, or `none`. Default: 127.0.0.1:7070 or the next free port. Beyond this machine
    /// only with a token: MILLRACE_API_TOKEN, or MILLRACE_API_TOKEN_FILE
    #[arg(long, value_name = "ADDR", value_parser = parse_ui)]
    pub ui: Option<Ui>,
    /// how progress is shown
    #[arg(long, value_enum, default_value_t = Progress::Auto)]
    pub progress: Progress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ui {
    None,
    At(std::net::SocketAddr),
}

fn parse_ui(text: &str) -> Result<Ui, String> {
    match text {
        "none" => Ok(Ui::None),
        _ => text.parse().map(Ui::At).map_err(|_| "expected an address such as 127.0.0.1:7070, or `none`".to_owned()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Progress {
    /// one live line on a terminal, a line every few seconds elsewhere
    Auto,
    Plain,
    None,
}

#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// write JSON lines to this file
    #[arg(required_unless_present = "kafka", conflicts_with = "kafka")]
    pub file: Option<PathBuf>,
    /// bootstrap servers: write to a topic instead
    #[arg(long, requires = "topic")]
    pub kafka: Option<String>,
    #[arg(long)]
    pub topic: Option<String>,
    #[arg(long, default_value_t = 1_000_000)]
    pub count: u64,
    #[arg(long, default_value_t = 4)]
    pub partitions: u32,
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    #[arg(long, default_value_t = 1_000)]
    pub campaigns: u32,
    #[arg(long, default_value_t = 1_000_000)]
    pub users: u32,
    /// events are out of order by up to this much
    #[arg(long, default_value_t = 4_000)]
    pub disorder_ms: u64,
    /// event time of the first event, RFC 3339; default: so that the last event is now
    #[arg(long)]
    pub start: Option<String>,
    /// events per second of event time (and of wall time with --live)
    #[arg(long, default_value_t = 2_000)]
    pub rate: u64,
    /// write at `rate` instead of as fast as possible
    #[arg(long)]
    pub live: bool,
    /// librdkafka properties, KEY=VALUE
    #[arg(long, value_name = "KEY=VALUE")]
    pub property: Vec<String>,
}

#[derive(Debug, Args)]
pub struct QueryArgs {
    /// tables are catalog.namespace.table
    pub sql: String,
    /// the pipeline file whose catalogs are meant
    #[arg(short = 'f', long = "file")]
    pub file: PathBuf,
    /// read all tables as they were at this snapshot
    #[arg(long, conflicts_with = "as_of", allow_negative_numbers = true)]
    pub snapshot: Option<i64>,
    /// read all tables as they were at this time, RFC 3339
    #[arg(long)]
    pub as_of: Option<String>,
    /// default: a table on a terminal, CSV elsewhere
    #[arg(long, value_enum)]
    pub format: Option<Format>,
}

#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// the capture: a folder with `capture.json`
    pub file: PathBuf,
    /// run this plugin instead of the one that failed
    #[arg(long, value_name = "FILE.wasm")]
    pub plugin: Option<PathBuf>,
    /// the rows of the call that are sent
    #[arg(long, value_enum, default_value_t = ReplayRows::All)]
    pub rows: ReplayRows,
    #[arg(long, value_enum, default_value_t = Form::Text)]
    pub format: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ReplayRows {
    All,
    /// those that were found to be the reason
    Guilty,
}

/// How a command answers that has no rows to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    Text,
    Json,
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// events per second
    #[arg(long, default_value_t = 20_000)]
    pub rate: u64,
    /// keep the warehouse and state of the last demo and go on from there
    #[arg(long)]
    pub keep: bool,
    /// over a real broker: the generator produces into its topic
    #[arg(long)]
    pub kafka: bool,
    /// end after this many seconds
    #[arg(long)]
    pub seconds: Option<u64>,
    /// where the pipeline file, the plugins and the demo's own files are
    #[arg(long, default_value = ".", hide = true)]
    pub root: PathBuf,
}

/// Why a command did not do what it was asked to.
pub enum Failure {
    /// the file or the arguments: exit code 2
    Usage(String),
    /// everything else: exit code 1
    Other(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

pub fn main() -> ExitCode {
    let cli = Cli::parse();
    open::compile_in_children();
    log::start(match cli.command {
        // rejected rows are what its cases are about
        Command::Plugin(_) => "warn,millrace=info,millrace::runtime=off",
        _ => "warn,millrace=info",
    });
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(message)) => {
            eprintln!("{}", log::redacted(message.trim_end()));
            ExitCode::from(2)
        }
        Err(Failure::Other(error)) => {
            eprintln!("error: {}", log::redacted(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Check { file, format } => check::run(&file, format),
        Command::Run(args) => run::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Swap(args) => swap::run(&args),
        Command::Rollback(args) => rollback::run(&args),
        Command::Stop(args) => stop::run(&args),
        Command::Savepoint(args) => savepoint::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Query(args) => query::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::CompilePlugin { memory_bytes, cpu_seconds } => {
            compile_as_child(memory_bytes, cpu_seconds).map_err(Failure::Usage)
        }
        Command::Plugin(command) => plugin::run(command),
    }
}
