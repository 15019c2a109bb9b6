//! `millrace run` with the campaign plugin's code linked into the host, in the place of its sandbox.

use std::path::Path;

use anyhow::Result;

#[cfg(feature = "bench")]
pub fn run(pipeline: &Path) -> Result<()> {
    use std::sync::Arc;

    use millrace::cli::{Failure, Progress, RunArgs, run};
    use millrace::plugin::AggregatorFactory;
    use millrace::plugin::native::NativeFactory;

    let args = RunArgs {
        file: pipeline.to_owned(),
        until_end: true,
        keep_open: false,
        fresh: false,
        from_savepoint: None,
        drop_state: Vec::new(),
        reset_offsets: Vec::new(),
        ui: Some(millrace::cli::Ui::None),
        watch: false,
        progress: Progress::None,
    };
    let native = |_: &str| -> Option<Arc<dyn AggregatorFactory>> {
        Some(Arc::new(NativeFactory::<campaign_metrics::Campaign>::new("campaign-metrics")))
    };
    run::run_with(&args, Some(&native)).map_err(|failure| match failure {
        Failure::Usage(message) => anyhow::anyhow!(message),
        Failure::Other(error) => error,
    })
}

#[cfg(not(feature = "bench"))]
pub fn run(_: &Path) -> Result<()> {
    anyhow::bail!("built without the host: `cargo xtask bench` builds with it")
}
