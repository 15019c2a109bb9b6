//! `millrace plugin …`: what the author of a plugin needs, from an empty folder to a tested component.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{Failure, Form};
use crate::plugin::Kind;

mod bench;
mod build;
mod inspect;
mod load;
mod native;
mod new;
mod project;
mod test;
mod vendor;

#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Make a folder with a plugin that builds and a test that passes
    #[command(after_help = "Examples:\n  millrace plugin new clicks-by-country\n  \
                      millrace plugin new my-filter --kind transform --language javascript --path plugins\n\n\
                      The folder stands alone: it holds the SDK and the interface as this program has them.")]
    New(NewArgs),
    /// Build a plugin's component with its language's own tools
    #[command(after_help = "Examples:\n  millrace plugin build                  # the project in this folder\n  \
                      millrace plugin build my-plugin\n\n\
                      What is built, and how, is in plugin.toml.")]
    Build(BuildArgs),
    /// Run the golden cases of a plugin and check the laws of aggregation; no broker is needed
    #[command(
        after_help = "Examples:\n  millrace plugin test                                 # the project in this folder\n  \
                      millrace plugin test my-plugin --case basic\n  \
                      millrace plugin test my-plugin --update              # what came out is right: write it into the cases\n  \
                      millrace plugin test plugin.wasm --case tests/basic.toml\n\n\
                      Exit code 0: every case and every law holds; 1: some do not; 2: a file or an argument is wrong."
    )]
    Test(TestArgs),
    /// Show what a plugin is: version, imports, configuration, columns in and out
    #[command(
        after_help = "Examples:\n  millrace plugin inspect                                # the project in this folder\n  \
                      millrace plugin inspect plugin.wasm\n  \
                      millrace plugin inspect plugin.wasm --schema 'user_id:string,amount:double?' --config '{\"top\":3}'"
    )]
    Inspect(InspectArgs),
    /// Measure a plugin: CPU time per row by batch size, bytes of state per group, time to start
    #[command(
        after_help = "Examples:\n  millrace plugin bench                                  # the project in this folder\n  \
                      millrace plugin bench my-plugin --rows 1000000\n  \
                      millrace plugin bench plugin.wasm --case tests/basic.toml"
    )]
    Bench(BenchArgs),
}

#[derive(Debug, Args)]
pub struct NewArgs {
    /// in kebab-case: `clicks-by-country`
    pub name: String,
    #[arg(long, value_enum, default_value_t = KindName::Aggregation)]
    pub kind: KindName,
    #[arg(long, value_enum, default_value_t = Language::Rust)]
    pub language: Language,
    /// where the folder is made
    #[arg(long, default_value = ".", value_name = "DIR")]
    pub path: PathBuf,
}

#[derive(Debug, Args)]
pub struct BuildArgs {
    /// a plugin's folder (with plugin.toml)
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    #[arg(long, value_enum, default_value_t = Form::Text)]
    pub format: Form,
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    /// a component, or a plugin's folder (with plugin.toml)
    #[arg(default_value = ".", value_name = "FILE|DIR")]
    pub path: PathBuf,
    /// open it with this configuration (JSON); default: that of the first case, or none
    #[arg(long, value_name = "JSON")]
    pub config: Option<String>,
    /// open it with these columns; default: those of the first case
    #[arg(long, value_name = "NAME:TYPE,…")]
    pub schema: Option<String>,
    /// a join's second input
    #[arg(long, value_name = "NAME:TYPE,…", requires = "schema")]
    pub right_schema: Option<String>,
    #[arg(long, value_enum, default_value_t = Form::Text)]
    pub format: Form,
}

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// a plugin's folder (with plugin.toml), or a component: then --case names a file
    #[arg(default_value = ".", value_name = "DIR|FILE")]
    pub path: PathBuf,
    /// the case whose key, configuration and values are used; default: the first
    #[arg(long, value_name = "NAME|PATH")]
    pub case: Option<String>,
    #[arg(long, default_value_t = 262_144, value_parser = clap::value_parser!(u32).range(1_000..=16_777_216))]
    pub rows: u32,
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub groups: u32,
    #[arg(long, value_enum, default_value_t = Form::Text)]
    pub format: Form,
}

#[derive(Debug, Args)]
pub struct TestArgs {
    /// a plugin's folder (with plugin.toml), or a component: then --case names a file
    #[arg(default_value = ".", value_name = "DIR|FILE")]
    pub path: PathBuf,
    /// write what came out into the cases: expected, rejected and late rows
    #[arg(long)]
    pub update: bool,
    /// only this case of tests/, without its `.toml`; with FILE: the path of a case; may be repeated
    #[arg(long, value_name = "NAME|PATH")]
    pub case: Vec<String>,
    /// the golden cases only
    #[arg(long)]
    pub no_laws: bool,
    #[arg(long, value_enum, default_value_t = Form::Text)]
    pub format: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KindName {
    Aggregation,
    Transform,
    Join,
}

impl KindName {
    pub fn name(self) -> &'static str {
        match self {
            Self::Aggregation => Kind::Aggregation.name(),
            Self::Transform => Kind::Transform.name(),
            Self::Join => Kind::Join.name(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Language {
    Rust,
    Javascript,
    Python,
    C,
}

impl Language {
    pub const ALL: [Self; 4] = [Self::Rust, Self::Javascript, Self::Python, Self::C];

    pub fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Javascript => "javascript",
            Self::Python => "python",
            Self::C => "c",
        }
    }
}

pub fn run(command: PluginCommand) -> Result<(), Failure> {
    match command {
        PluginCommand::New(args) => new::run(&args),
        PluginCommand::Build(args) => build::run(&args),
        PluginCommand::Test(args) => test::run(&args),
        PluginCommand::Inspect(args) => inspect::run(&args),
        PluginCommand::Bench(args) => bench::run(&args),
    }
}

/// The kinds by the names that a person uses.
pub const KINDS: [(&str, Kind); 3] =
    [("aggregation", Kind::Aggregation), ("transform", Kind::Transform), ("join", Kind::Join)];
