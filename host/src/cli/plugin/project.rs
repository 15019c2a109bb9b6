//! A plugin's folder: `plugin.toml` says what it is and where its component comes from, `tests/` has its cases.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::DeTable;

use super::{KINDS, Language};
use crate::cli::Failure;
use crate::cli::open::colour;
use crate::plugin::Kind;
use crate::spec::cursor::{Cursor, Word};
use crate::spec::diagnostic::{Diagnostic, Diagnostics, SourceText};
use crate::spec::document::{Document, Spans};

pub const FILE: &str = "plugin.toml";

#[derive(Debug)]
pub struct Project {
    pub dir: PathBuf,
    pub name: String,
    pub kind: Kind,
    pub language: Language,
    /// the built .wasm, below `dir`
    pub component: PathBuf,
    /// what makes the component, run in `dir`; Rust needs none
    pub build: Vec<String>,
    /// programs that this takes
    pub needs: Vec<String>,
}

impl Project {
    pub fn load(dir: &Path) -> Result<Self, Failure> {
        let path = dir.join(FILE);
        let text = std::fs::read_to_string(&path).map_err(|error| {
            let what = if error.kind() == std::io::ErrorKind::NotFound {
                format!("{} has no {FILE}, so it is not a plugin's folder", dir.display())
            } else {
                format!("cannot read {}: {error}", path.display())
            };
            Failure::Usage(format!(
                "error: {what}\nhint: `millrace plugin new NAME` makes one; `millrace plugin … DIR` names another"
            ))
        })?;
        let source = Arc::new(SourceText { name: path.display().to_string(), text });
        read(dir, &source).map_err(|found| Failure::Usage(found.render(colour())))
    }

    /// The project that this file is the component of.
    pub fn of(component: &Path) -> Option<Self> {
        let file = component.canonicalize().ok()?;
        let dir = file.ancestors().skip(1).find(|dir| dir.join(FILE).is_file())?;
        Self::load(dir).ok().filter(|project| project.component.canonicalize().is_ok_and(|own| own == file))
    }

    /// The cases' files in `tests/`, by name.
    pub fn cases(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(self.tests())
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e == "toml"))
            .collect();
        files.sort();
        files
    }

    pub fn tests(&self) -> PathBuf {
        below(&self.dir, Path::new("tests"))
    }

    /// A command with this folder as its argument, unless it is where one stands.
    pub fn command(&self, verb: &str) -> String {
        if self.dir == Path::new(".") {
            format!("millrace plugin {verb}")
        } else {
            format!("millrace plugin {verb} {}", self.dir.display())
        }
    }
}

/// `dir/path`, without a `./` that says nothing.
pub fn below(dir: &Path, path: &Path) -> PathBuf {
    if dir == Path::new(".") { path.to_owned() } else { dir.join(path) }
}

fn read(dir: &Path, source: &Arc<SourceText>) -> Result<Project, Diagnostics> {
    let (root, syntax) = DeTable::parse_recoverable(&source.text);
    if !syntax.is_empty() {
        let found = syntax
            .iter()
            .map(|error| Diagnostic::error(error.span().unwrap_or(0..0), format!("not TOML: {}", error.message())));
        return Err(Diagnostics::new(Arc::clone(source), found.collect(), &[]));
    }
    let env = |name: &str| std::env::var(name).ok();
    let spans = Spans::of(root.get_ref(), &source.text);
    let doc = Document::new(Arc::clone(source), dir.to_path_buf(), spans, &env);
    let c = Cursor::over(&doc, root.get_ref(), "plugin.toml");
    let name = c.required("name", Cursor::string);
    let kinds = KINDS.map(|(name, kind)| (name, Word::Now(kind)));
    let kind = c.required("kind", |c, key| c.choice(key, &kinds));
    let languages = Language::ALL.map(|language| (language.name(), Word::Now(language)));
    let language = c.required("language", |c, key| c.choice(key, &languages));
    let component = c.required("component", Cursor::string);
    let build = c.strings("build").unwrap_or_default();
    let needs = c.strings("needs").unwrap_or_default();
    if language.is_some_and(|language| language != Language::Rust) && build.is_empty() {
        c.report(
            Diagnostic::error(c.own_span(), "plugin.toml lacks `build`")
                .hint("the command that makes the component, run in this folder: `build = [\"sh\", \"build.sh\"]`"),
        );
    }
    c.finish();
    let project = (|| {
        Some(Project {
            dir: dir.to_path_buf(),
            name: name?,
            kind: kind?,
            language: language?,
            component: below(dir, Path::new(&component?)),
            build,
            needs,
        })
    })();
    let (found, _, _) = doc.finish();
    match project {
        Some(project) if !found.has_errors() => Ok(project),
        _ => Err(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        let source = Arc::new(SourceText { name: FILE.to_owned(), text: text.to_owned() });
        read(Path::new("."), &source).map(|project| project.name).unwrap_err().render(false)
    }

    #[test]
    fn what_is_wrong_with_plugin_toml_is_said_where_it_stands() {
        let right = "name = \"p\"\nkind = \"transform\"\nlanguage = \"rust\"\ncomponent = \"target/p.wasm\"\n";
        let source = Arc::new(SourceText { name: FILE.to_owned(), text: right.to_owned() });
        assert_eq!(read(Path::new("."), &source).unwrap().component, Path::new("target/p.wasm"));
        let message = error(&right.replace("transform", "transfrom"));
        assert!(message.contains("plugin.toml:2:8") && message.contains("did you mean `transform`?"), "{message}");
        let message = error(&right.replace("component", "componnt"));
        assert!(message.contains("did you mean `component`?") && message.contains("lacks `component`"), "{message}");
        let message = error(&right.replace("rust", "python"));
        assert!(message.contains("plugin.toml lacks `build`"), "{message}");
    }
}
