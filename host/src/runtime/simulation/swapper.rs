//! Plugins are replaced now and then while a process lives: by versions that give the same results and may die at any call,
//! with and without a shadow, and the roles are exchanged again.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use millrace_core::checkpoint::PluginRef;
use millrace_core::schema::Schema;
use millrace_core::swap::{Phase, SwapRecord};

use super::fragile::FragileFactory;
use super::pipeline::{LEDGER, Ledger};
use super::process::Process;
use super::random::Random;
use super::steps::{StepsFactory, UNIQUE};
use crate::plugin::native::NativeFactory;
use crate::plugin::{AggregatorFactory, PluginError, StateOrigin, TransformerFactory};
use crate::runtime::control::Shadow;
use crate::runtime::coordinator::Order;
use crate::runtime::run::{AggregationNode, input_columns, offered_to_plugin};
use crate::runtime::swaps::{SharedHistory, SwapOrder};
use crate::runtime::transforms::TransformNode;
use crate::runtime::versions::shadow::Comparison;
use crate::runtime::versions::{Candidate, OpenShared};
use crate::spec::model::WindowSpec;

/// Makes orders for the coordinator.
pub type Swapper = Box<dyn Fn(&mut Random) -> Option<Order> + Send + Sync>;

pub fn swapper(
    process: &Arc<Process>,
    node: &AggregationNode,
    transform: Option<&TransformNode>,
    history: &SharedHistory,
) -> Swapper {
    let factory = NativeFactory::<Ledger>::new(LEDGER);
    let offered = offered_to_plugin(node);
    let plugin = factory.open("", &offered).expect("opens");
    let signature = plugin.signature().clone();
    let input = input_columns(node, &*plugin);
    let key = node.spec.key.iter().filter_map(|k| node.input.field(k).cloned()).collect::<Vec<_>>();
    let is_sliced = !matches!(node.spec.window, WindowSpec::Session { .. } | WindowSpec::Global);
    let steps = transform.map(|transform| transform.plugin_node().to_string());
    let (process, history) = (Arc::downgrade(process), history.clone());
    Box::new(move |random| {
        let process = process.upgrade()?;
        if !history.is_open() {
            return None;
        }
        let mut history = history.lock();
        let last = history
            .iter()
            .next_back()
            .map(|record| (record.phase, record.is_rollback, record.id, record.operator.clone()));
        match last {
            Some((Phase::Probation, false, id, operator)) if random.percent(20) => {
                history.get_mut(id)?.is_rollback = true;
                // the tasks of a transform may be those of its steps
                let operator = steps.clone().filter(|_| operator == UNIQUE).unwrap_or(operator);
                return Some(Order::RollBack { operator, why: "asked for".to_owned() });
            }
            // mostly it is left to itself: windows expire under it, and it may fail
            Some((Phase::Probation, ..)) if random.percent(75) => return None,
            Some((phase, ..)) if !phase.is_over() && !matches!(phase, Phase::Probation | Phase::Draining) => {
                return None;
            }
            _ => {}
        }
        let id = history.next_id();
        if let Some(operator) = steps.clone().filter(|_| random.percent(50)) {
            history.push(SwapRecord { id, operator: UNIQUE.to_owned(), ..SwapRecord::default() });
            let candidate = Arc::new(of_transform(&process, id, random));
            return Some(Order::Swap(SwapOrder { candidate, operator, shadow: None }));
        }
        history.push(SwapRecord { id, operator: LEDGER.to_owned(), ..SwapRecord::default() });
        let falls_percent = random.pick(&[0, 0, 1, 5, 40]);
        let shadow = random.percent(30).then(|| Shadow {
            duration: Duration::from_micros(random.next() % 3_000),
            promote_if_equal: random.percent(70),
            tolerance: 0.0,
        });
        let drains = is_sliced && random.percent(40);
        let origin = (!drains && random.percent(50)).then(|| StateOrigin {
            name: LEDGER.to_owned(),
            version: "1.0.0".to_owned(),
            config: String::new(),
            state: signature.state.clone(),
        });
        let open = {
            let (process, offered) = (Arc::downgrade(&process), offered.clone());
            OpenShared::Aggregator(Arc::new(move || {
                let gone =
                    || PluginError::Load { plugin: LEDGER.to_owned(), message: "the process is gone".to_owned() };
                let process = process.upgrade().ok_or_else(gone)?;
                let inner = NativeFactory::<Ledger>::new(LEDGER);
                FragileFactory { inner, process, falls_percent: Some(falls_percent) }.open("", &offered)
            }))
        };
        let comparison =
            shadow.map(|_| Comparison::new(key.clone(), signature.output.clone(), signature.output.clone(), 0.0));
        let candidate = Candidate {
            id,
            plugin: PluginRef {
                name: LEDGER.to_owned(),
                version: "2.0.0".to_owned(),
                sha256: format!("swap {id} of process {}", process.life.number),
                config: String::new(),
                in_file: None,
            },
            state: signature.state.clone(),
            open,
            recorder: Box::new(|| None),
            input: input.clone(),
            origin,
            drains,
            comparison,
            is_over: Arc::new(AtomicBool::new(false)),
        };
        Some(Order::Swap(SwapOrder { candidate: Arc::new(candidate), operator: LEDGER.to_owned(), shadow }))
    })
}

fn of_transform(process: &Arc<Process>, id: u64, random: &mut Random) -> Candidate {
    let factory = StepsFactory::new(process, random.pick(&[0, 10, 100, 100]));
    Candidate {
        id,
        plugin: PluginRef {
            name: UNIQUE.to_owned(),
            version: "2.0.0".to_owned(),
            sha256: format!("swap {id} of process {}", process.life.number),
            config: String::new(),
            in_file: None,
        },
        state: Schema::default(),
        open: OpenShared::Transformer(Arc::new(move || factory.open("", &Schema::default()))),
        recorder: Box::new(|| None),
        input: Vec::new(),
        origin: None,
        drains: false,
        comparison: None,
        is_over: Arc::new(AtomicBool::new(false)),
    }
}
