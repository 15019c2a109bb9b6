//! One commit that adds rows and takes others away: what has to go is found in the very table that the commit is bound to.
//!
//! ```text
//!   removals ─▶ place known, its file of this commit or live ─────────────┐
//!           └─▶ file not live (compacted), or place unknown ─▶ look up ───┴▶ position deletes ─▶ snapshot ─▶ submit
//! ```
//!
//! Everything is judged on one state of the table, and submitted as a change of exactly that state: if anybody was faster,
//! nothing has happened, and all of it is done again on what there is then.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use iceberg::Catalog;
use iceberg::spec::DataFile;
use iceberg::table::Table;
use millrace_core::checkpoint::Committable;
use tokio::sync::Mutex;
use tracing::{debug, info, warn};

use super::commit::Judge;
use super::deletes::{self, Deletes};
use super::identity::{Id, Identity};
use super::live::{Home, Manifests, Target};
use super::removals::{self, Removal};
use super::snapshot::{self, Added};
use super::{IcebergSink, classify, data, lookup};
use crate::catalog::submit::{Submit, Submitted};
use crate::sink::{Result, SinkError};

/// Attempts that lose against others before the caller looks at the table's claim again.
const CONFLICTS_MAX: u32 = 4;

/// What an upserting sink has besides an appending one.
pub struct Upsert {
    pub identity: Arc<Identity>,
    /// of windows whose end the rows do not say
    pub window_ms: Option<i64>,
    pub submit: Arc<dyn Submit>,
    manifests: Manifests,
}

impl Upsert {
    pub fn new(identity: Arc<Identity>, window_ms: Option<i64>, submit: Arc<dyn Submit>) -> Self {
        Self { identity, window_ms, submit, manifests: Manifests::default() }
    }
}

/// What a committable adds and takes away.
pub struct Delta {
    checkpoint: u64,
    data: Vec<DataFile>,
    /// where each of the data files belongs
    own: HashMap<String, Home>,
    removals: Vec<Removals>,
    /// the deletes of the last attempt, which the next can use if they are the same
    written: Mutex<Written>,
}

/// Those of one epoch.
struct Removals {
    list: Vec<Removal>,
    /// so many of the commit's data files were written in the epochs before
    data_before: usize,
}

#[derive(Default)]
struct Written {
    targets: Vec<Target>,
    deletes: Vec<Deletes>,
    /// delete files of former attempts
    stale: Vec<String>,
}

impl Delta {
    /// Of a claim: nothing.
    pub fn empty() -> Self {
        Self { checkpoint: 0, data: Vec::new(), own: HashMap::new(), removals: Vec::new(), written: Mutex::default() }
    }

    pub async fn of(sink: &IcebergSink, committable: &Committable) -> Result<Self> {
        let spec_id = sink.layout.spec.spec_id();
        let mut delta = Self { checkpoint: committable.checkpoint, ..Self::empty() };
        for file in &committable.files {
            match removals::path_of(file) {
                // stands before the data files of its epoch
                Some(path) => delta
                    .removals
                    .push(Removals { list: removals::read(&sink.layout, path).await?, data_before: delta.data.len() }),
                None => delta.data.push(data::data_file(&sink.layout, file)?),
            }
        }
        let home = |file: &DataFile| Home { spec_id, partition: file.partition().clone() };
        delta.own = delta.data.iter().map(|file| (file.file_path().to_owned(), home(file))).collect();
        Ok(delta)
    }

    /// The commit is in the table: files of attempts that were not are nobody's.
    pub async fn clean_up(&self, sink: &IcebergSink) {
        let stale = std::mem::take(&mut self.written.lock().await.stale);
        sink.layout.remove(stale.iter().map(String::as_str)).await;
    }
}

/// Makes one attempt. `Ok`: the catalog said yes; whoever asked looks for himself.
pub async fn transact(
    sink: &IcebergSink,
    upsert: &Upsert,
    judge: &Judge,
    delta: &Delta,
    summary: &HashMap<String, String>,
    properties: &HashMap<String, String>,
) -> Result<()> {
    let what = format!("table {}", sink.ident);
    for attempt in 1.. {
        let base = judge.load_table(&sink.ident).await.map_err(|e| classify(&what, &e))?;
        let targets = targets(sink, upsert, &base, delta).await?;
        let deletes = deletes_of(sink, &base, delta, targets).await?;
        let added = Added {
            data: &delta.data,
            data_spec_id: sink.layout.spec.spec_id(),
            deletes: &deletes,
            summary: summary.clone(),
            properties: properties.clone(),
        };
        let change = snapshot::produce(&base, added).await.map_err(|e| classify(&what, &e))?;
        match upsert.submit.submit(&base, &change).await {
            Submitted::Yes => return Ok(()),
            Submitted::Conflict(why) => {
                sink.layout.remove(change.files.iter().map(String::as_str)).await;
                if attempt >= CONFLICTS_MAX {
                    return Err(SinkError::Transient(format!("{what}: somebody was faster: {why}")));
                }
                debug!("{what}: somebody was faster ({why}); trying again on what there is now");
            }
            Submitted::Refused(why) => {
                sink.layout.remove(change.files.iter().map(String::as_str)).await;
                return Err(why);
            }
            // It may be applied, or still be on its way: its files stay.
            Submitted::Perhaps(why) => return Err(SinkError::Transient(format!("{what}: {why}"))),
        }
    }
    Ok(())
}

/// The rows that have to go, as the table has them now.
async fn targets(sink: &IcebergSink, upsert: &Upsert, base: &Table, delta: &Delta) -> Result<Vec<Target>> {
    let mut targets = Targets::default();
    let places = || delta.removals.iter().flat_map(|epoch| &epoch.list).filter_map(|r| Some((r, r.place.as_ref()?)));
    let foreign: BTreeSet<&str> =
        places().map(|(_, place)| &*place.file).filter(|file| !delta.own.contains_key(*file)).collect();
    let what = format!("reading the manifests of table {}", sink.ident);
    let homes = upsert.manifests.homes(base, &foreign).await.map_err(|e| classify(&what, &e))?;
    if homes.len() < foreign.len() {
        let files = foreign.len() - homes.len();
        info!(table = %sink.ident, files, "somebody has rewritten files with rows to be replaced: looking the rows up");
    }
    let mut unknown: HashSet<Id> = HashSet::new();
    for (removal, place) in places() {
        match delta.own.get(&*place.file).or_else(|| homes.get(&*place.file)) {
            Some(home) => targets.add(&place.file, home, [place.position]),
            None => {
                unknown.insert(removal.id.clone());
            }
        }
    }
    for epoch in &delta.removals {
        let nowhere: HashSet<Id> =
            epoch.list.iter().filter(|removal| removal.place.is_none()).map(|removal| removal.id.clone()).collect();
        // an earlier epoch of this very commit may have written it
        let earlier = delta.data.iter().take(epoch.data_before);
        let earlier = earlier.filter_map(|file| Some((delta.own.get(file.file_path())?.clone(), file)));
        for found in lookup::look_into(base.file_io(), &upsert.identity, earlier, &nowhere).await? {
            targets.add(&found.file, &found.home, found.positions);
        }
        unknown.extend(nowhere);
    }
    for found in lookup::look_up(base, &upsert.identity, &unknown).await? {
        targets.add(&found.file, &found.home, found.positions);
    }
    Ok(targets.all())
}

/// Rows by file, each once.
#[derive(Default)]
struct Targets(BTreeMap<String, (Home, BTreeSet<i64>)>);

impl Targets {
    fn add(&mut self, file: &str, home: &Home, positions: impl IntoIterator<Item = i64>) {
        match self.0.get_mut(file) {
            Some((_, known)) => known.extend(positions),
            None => {
                self.0.insert(file.to_owned(), (home.clone(), positions.into_iter().collect()));
            }
        }
    }

    fn all(self) -> Vec<Target> {
        let target = |(file, (home, positions)): (String, (Home, BTreeSet<i64>))| Target {
            file,
            home,
            positions: positions.into_iter().collect(),
        };
        self.0.into_iter().map(target).collect()
    }
}

/// Writes the delete files, or takes those of the last attempt if they say the same.
async fn deletes_of(sink: &IcebergSink, base: &Table, delta: &Delta, targets: Vec<Target>) -> Result<Vec<Deletes>> {
    let mut written = delta.written.lock().await;
    if written.targets != targets {
        if !written.deletes.is_empty() {
            warn!(table = %sink.ident, checkpoint = delta.checkpoint, "rows to be replaced have moved: their deletes are written anew");
        }
        let former: Vec<String> = written.deletes.iter().map(|d| d.file.file_path().to_owned()).collect();
        written.stale.extend(former);
        written.deletes = deletes::write(&sink.layout, base, delta.checkpoint, &targets).await?;
        written.targets = targets;
    }
    Ok(written.deletes.clone())
}
