//! What is checked of a transform's new plugin. There is no state that it could not take; its columns must fit on both sides.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use millrace_core::checkpoint::PluginRef;
use millrace_core::schema::Schema;
use millrace_core::swap::Version;

use super::{Controller, Node, Of, Read, Running, other_name, other_output};
use crate::capture::Kind;
use crate::plugin::{TransformerFactory, WasmTransformFactory, artifact};
use crate::runtime::control::SwapRequest;
use crate::runtime::transforms::{Fits, TransformNode, version};
use crate::runtime::versions::{Candidate, OpenShared};
use crate::spec::model::TransformSpec;
use crate::spec::secrets::Secrets;

/// None: it has no plugin.
pub(super) fn of_transform(node: &TransformNode, secrets: &Secrets) -> Option<Node> {
    let (plugin, factory) = (node.spec.plugin.as_ref()?, node.factory.as_ref()?);
    let first = Running {
        plugin: version(&**factory, &plugin.config, secrets),
        config: plugin.config.clone(),
        state: Schema::default(),
        output: node.output.clone(),
    };
    let of = Of::Transform { spec: node.spec.clone(), tasks: node.plugin_node().to_string() };
    Some(Node { of, input: node.input.clone(), output: node.output.clone(), first })
}

pub(super) fn no_shadow(operator: &str) -> String {
    format!(
        "`{operator}` is a transform: a shadow compares results window by window, and it has none\nhint: without `--shadow` a new \
         version is tried on the batches that come, its rows thrown away, before it takes over; `millrace rollback` takes it back"
    )
}

impl Controller {
    /// See [`Controller::prepare`].
    pub(super) fn prepare_transform(
        &self,
        id: u64,
        mut request: SwapRequest,
        node: &Node,
        spec: &TransformSpec,
        running: &Running,
        config: String,
    ) -> Result<Candidate, String> {
        let plugin = spec.plugin.as_ref().map(|plugin| plugin.plugin.clone()).unwrap_or_default();
        let Read { artifact, bytes, limits } =
            self.read(&mut request, &plugin, artifact::Kind::Transform, running, &config)?;
        let operator = &request.operator;
        let factory = WasmTransformFactory::new(self.engine()?, &plugin, &artifact, limits);
        let factory: Arc<dyn TransformerFactory> = Arc::new(factory.map_err(|e| e.to_string())?);
        self.name(id, factory.info(), factory.digest(), &config);
        let name = &factory.info().name;
        if *name != running.plugin.name && !request.replace {
            return Err(other_name(name, operator, running, "is meant"));
        }
        let Fits { offered, output } = Fits::new(spec, &node.input, &*factory, &config)?;
        if output != node.output {
            return Err(other_output(&self.pipeline, operator, &node.output, &output));
        }
        let to = version(&*factory, &config, &self.pipeline.secrets);
        let accepted = Running { plugin: to.clone(), config: config.clone(), state: Schema::default(), output };
        self.accept(id, &request.by, bytes, accepted, None)?;
        let open = {
            let (factory, config, offered) = (Arc::clone(&factory), config.clone(), offered.clone());
            OpenShared::Transformer(Arc::new(move || factory.open(&config, &offered)))
        };
        let described = (factory.info().clone(), factory.limits());
        let recorder = self.recorder((Kind::Transform, operator, &plugin), described, &to, config, offered);
        let Version { name, version, sha256, config } = to;
        Ok(Candidate {
            id,
            plugin: PluginRef { name, version, sha256, config, in_file: None },
            state: Schema::default(),
            open,
            recorder,
            // each task finds them
            input: Vec::new(),
            origin: None,
            drains: false,
            comparison: None,
            is_over: Arc::new(AtomicBool::new(false)),
        })
    }
}
