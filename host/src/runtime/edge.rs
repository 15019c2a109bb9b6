//! The bounded queues between tasks, the exchange that splits a batch by task, and the aligned inbox.
//!
//! One queue per pair of tasks, so that an input whose barrier has arrived can be left unread while the others go on.
//! An exchange copies no value: each receiver gets the shared batch and the numbers of its rows.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Select, Sender, bounded};
use millrace_core::barrier::{Aligner, Barrier};
use millrace_core::batch::{Batch, RowSet, Rows};
use millrace_core::key::{self, Keys};
use millrace_core::limits::EDGE_PACKETS_MAX;
use millrace_core::watermark::Watermark;

use super::message::{Message, Packet, RunError};
use super::unite::Unite;

/// The receivers are gone: the run is ending for another reason, which somebody else reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hangup;

/// How rows find their task downstream.
#[derive(Clone)]
pub enum Exchange {
    /// by the key group of these columns
    Key { columns: Arc<[usize]> },
    /// by a hash that the receiver's sink computes (its table's partition)
    Partition(PartitionHash),
    /// sender i to receiver i; to receiver i modulo the receivers if there are not as many
    Forward,
}

/// One hash per row; none: the sink does not care.
pub type PartitionHash = Arc<dyn Fn(&Batch) -> Result<Option<Vec<u64>>, RunError> + Send + Sync>;

/// One task's outgoing side of one edge of the graph.
pub struct Output {
    pub exchange: Exchange,
    /// the receiver has other inputs, of other columns
    unite: Option<Arc<Unite>>,
    targets: Vec<Sender<Message>>,
    /// this sender's own number
    task: usize,
}

/// Makes all queues of one edge: outputs by sender, inputs by receiver.
pub fn connect(
    exchange: &Exchange,
    unite: Option<Unite>,
    senders: usize,
    receivers: usize,
) -> (Vec<Output>, Vec<Vec<Receiver<Message>>>) {
    let unite = unite.map(Arc::new);
    let mut inputs: Vec<Vec<Receiver<Message>>> = (0..receivers).map(|_| Vec::new()).collect();
    // pairs: what does not send to another has no reason to hold it up either
    let pairs = matches!(exchange, Exchange::Forward) && senders == receivers;
    let outputs = (0..senders)
        .map(|task| {
            let targets = inputs
                .iter_mut()
                .enumerate()
                .filter(|(receiver, _)| !pairs || *receiver == task)
                .map(|(_, input)| {
                    let (sender, receiver) = bounded(EDGE_PACKETS_MAX);
                    input.push(receiver);
                    sender
                })
                .collect();
            Output { exchange: exchange.clone(), unite: unite.clone(), targets, task }
        })
        .collect();
    (outputs, inputs)
}

impl Output {
    /// Sends a batch's rows to the tasks they belong to.
    pub fn rows(&self, batch: &Arc<Batch>) -> Result<Result<(), Hangup>, RunError> {
        if batch.num_rows() == 0 {
            return Ok(Ok(()));
        }
        let united;
        let batch = match &self.unite {
            None => batch,
            Some(unite) => {
                united = Arc::new(unite.apply(batch)?);
                &united
            }
        };
        let count = self.targets.len();
        match &self.exchange {
            Exchange::Key { columns } => {
                let key_columns: Vec<_> =
                    columns.iter().filter_map(|&i| batch.rows.columns().get(i).cloned()).collect();
                let keys =
                    key::encode(&key_columns, batch.num_rows()).map_err(|e| RunError::Internal(e.to_string()))?;
                let keys = Arc::new(keys);
                if count == 1 {
                    return Ok(self.send(0, batch, Rows::All, Some(keys)));
                }
                let mut split: Vec<Vec<u32>> =
                    (0..count).map(|_| Vec::with_capacity(batch.num_rows() / count + 64)).collect();
                for (row, &hash) in (0_u32..).zip(keys.hashes()) {
                    if let Some(rows) = split.get_mut(key::task_of_key_group(key::key_group(hash), count)) {
                        rows.push(row);
                    }
                }
                Ok(self.send_split(batch, split, Some(&keys)))
            }
            Exchange::Partition(hash) if count > 1 => match hash(batch)? {
                None => Ok(self.forward(batch)),
                Some(hashes) => {
                    let mut split: Vec<Vec<u32>> = (0..count).map(|_| Vec::new()).collect();
                    for (row, hash) in (0_u32..).zip(hashes) {
                        let target = usize::try_from(hash % (count as u64)).unwrap_or(0);
                        if let Some(rows) = split.get_mut(target) {
                            rows.push(row);
                        }
                    }
                    Ok(self.send_split(batch, split, None))
                }
            },
            Exchange::Partition(_) | Exchange::Forward => Ok(self.forward(batch)),
        }
    }

    fn forward(&self, batch: &Arc<Batch>) -> Result<(), Hangup> {
        self.send(self.task % self.targets.len().max(1), batch, Rows::All, None)
    }

    fn send_split(&self, batch: &Arc<Batch>, split: Vec<Vec<u32>>, keys: Option<&Arc<Keys>>) -> Result<(), Hangup> {
        for (target, rows) in split.into_iter().enumerate() {
            if rows.is_empty() {
                continue;
            }
            let rows = if rows.len() == batch.num_rows() { Rows::All } else { Rows::Some(rows.into()) };
            self.send(target, batch, rows, keys.cloned())?;
        }
        Ok(())
    }

    fn send(&self, target: usize, batch: &Arc<Batch>, rows: Rows, keys: Option<Arc<Keys>>) -> Result<(), Hangup> {
        let packet = Packet { rows: RowSet { batch: Arc::clone(batch), rows }, keys };
        self.targets.get(target).ok_or(Hangup)?.send(Message::Rows(packet)).map_err(|_| Hangup)
    }

    /// To every task downstream.
    pub fn broadcast(&self, message: &Message) -> Result<(), Hangup> {
        for target in &self.targets {
            target.send(message.clone()).map_err(|_| Hangup)?;
        }
        Ok(())
    }
}

/// One task's incoming side, over all its edges.
pub struct Inbox {
    inputs: Vec<Receiver<Message>>,
    aligner: Aligner,
}

/// What an inbox gives.
pub enum Received {
    Rows(Packet),
    Watermark {
        input: usize,
        watermark: Watermark,
    },
    /// arrived on every input
    Barrier(Barrier),
    /// nothing came in time
    Nothing,
    Hangup,
}

impl Inbox {
    pub fn new(inputs: Vec<Receiver<Message>>) -> Self {
        let aligner = Aligner::new(inputs.len());
        Self { inputs, aligner }
    }

    pub fn inputs(&self) -> usize {
        self.inputs.len()
    }

    /// Waits for the next message on any input that may be read. `patience` zero: only what is there already.
    pub fn receive(&mut self, patience: Option<Duration>) -> Result<Received, RunError> {
        loop {
            let mut select = Select::new();
            let mut readable = Vec::with_capacity(self.inputs.len());
            for (index, receiver) in self.inputs.iter().enumerate() {
                if !self.aligner.is_blocked(index) {
                    select.recv(receiver);
                    readable.push((index, receiver));
                }
            }
            let operation = match patience {
                None => select.select(),
                Some(Duration::ZERO) => match select.try_select() {
                    Ok(operation) => operation,
                    Err(_) => return Ok(Received::Nothing),
                },
                Some(patience) => match select.select_timeout(patience) {
                    Ok(operation) => operation,
                    Err(_) => return Ok(Received::Nothing),
                },
            };
            let Some(&(input, receiver)) = readable.get(operation.index()) else {
                return Err(RunError::Internal("an inbox selected an input it does not have".into()));
            };
            match operation.recv(receiver) {
                Err(_) => return Ok(Received::Hangup),
                Ok(Message::Rows(packet)) => return Ok(Received::Rows(packet)),
                Ok(Message::Watermark(watermark)) => return Ok(Received::Watermark { input, watermark }),
                Ok(Message::Barrier(barrier)) => {
                    let complete =
                        self.aligner.arrive(input, barrier).map_err(|e| RunError::Internal(e.to_string()))?;
                    if let Some(barrier) = complete {
                        return Ok(Received::Barrier(barrier));
                    }
                }
            }
        }
    }
}
