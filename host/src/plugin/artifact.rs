//! A plugin's file, read and explained before anything of it is compiled or run: which interface it implements, what it
//! imports, its digest. The answer to "why does this not load" comes from here, in words about plugins and not about
//! WebAssembly sections.
//!
//! A file is a component, or a core module that carries its interface in a custom section (what `cargo build --target
//! wasm32-unknown-unknown` gives); the latter is wrapped here. The digest is that of the bytes as given.

use std::io::Read as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use wasmparser::{Encoding, Parser, Payload};

use super::bindings::{AGGREGATION_VERSION, JOIN_VERSION, TRANSFORM_VERSION, TYPES_VERSION};
use super::limits::{ARTIFACT_BYTES_MAX, Capabilities};
use super::{PluginError, Result};

/// What an operator can use a plugin for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Aggregation,
    Transform,
    Join,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Aggregation, Self::Transform, Self::Join];

    pub fn name(self) -> &'static str {
        match self {
            Self::Aggregation => "aggregation",
            Self::Transform => "transform",
            Self::Join => "join",
        }
    }

    pub(super) fn with_article(self) -> &'static str {
        match self {
            Self::Aggregation => "an aggregation",
            Self::Transform => "a transform",
            Self::Join => "a join",
        }
    }

    /// of the interface that this host serves
    pub fn wit_version(self) -> &'static str {
        match self {
            Self::Aggregation => AGGREGATION_VERSION,
            Self::Transform => TRANSFORM_VERSION,
            Self::Join => JOIN_VERSION,
        }
    }

    fn export(self, version: &str) -> String {
        format!("millrace:{0}/{0}@{version}", self.name())
    }
}

/// A plugin's bytes, checked as far as that is possible without compiling them.
#[derive(Clone)]
pub struct Artifact {
    name: String,
    digest: String,
    component: Vec<u8>,
    size_bytes: usize,
    was_core_module: bool,
    kind: Kind,
    imports: Vec<String>,
    exports: Vec<String>,
}

impl Artifact {
    /// Reads `path`; with `expected_sha256` (hex) a file with another digest is refused.
    pub fn load(name: &str, path: &Path, expected_sha256: Option<&str>) -> Result<Self> {
        let load = |message: String| PluginError::Load { plugin: format!("`{name}` ({})", path.display()), message };
        let file = std::fs::File::open(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => load("no such file; build the plugin first, or correct `path`".to_owned()),
            _ => load(format!("cannot be opened: {e}")),
        })?;
        let mut bytes = Vec::new();
        // One byte more than allowed is enough to know that it is too large, whatever the file's metadata says.
        file.take(ARTIFACT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|e| load(format!("cannot be read: {e}")))?;
        Self::explained(name, bytes, expected_sha256).map_err(load)
    }

    /// The same from memory (a swap's upload, a checkpoint's copy).
    pub fn from_bytes(name: &str, bytes: Vec<u8>, expected_sha256: Option<&str>) -> Result<Self> {
        Self::explained(name, bytes, expected_sha256)
            .map_err(|message| PluginError::Load { plugin: format!("`{name}`"), message })
    }

    fn explained(name: &str, bytes: Vec<u8>, expected_sha256: Option<&str>) -> std::result::Result<Self, String> {
        let size_bytes = bytes.len();
        if u64::try_from(size_bytes).unwrap_or(u64::MAX) > ARTIFACT_BYTES_MAX {
            return Err(format!("is larger than {} MiB, the most that a plugin may have", ARTIFACT_BYTES_MAX >> 20));
        }
        let digest = hex(&Sha256::digest(&bytes));
        if let Some(expected) = expected_sha256
            && !expected.trim().eq_ignore_ascii_case(&digest)
        {
            return Err(format!(
                "sha256 is {digest}, but the pipeline file pins {expected}; restore the pinned file, or change `sha256` \
                 if the new one is wanted"
            ));
        }
        let was_core_module = is_core_module(&bytes)?;
        let component = if was_core_module { encode(&bytes)? } else { bytes };
        let (imports, exports) = interface(&component)?;
        refuse_imports(&imports)?;
        let kind = find_kind(&exports)?;
        Ok(Self { name: name.to_owned(), digest, component, size_bytes, was_core_module, kind, imports, exports })
    }

    /// the name in the pipeline file
    pub fn name(&self) -> &str {
        &self.name
    }

    /// lower-case hex sha-256 of the bytes as given
    pub fn digest(&self) -> &str {
        &self.digest
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// bytes of the file as given
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// it was a core module and has been wrapped
    pub fn was_core_module(&self) -> bool {
        self.was_core_module
    }

    /// names of the interfaces that it imports
    pub fn imports(&self) -> &[String] {
        &self.imports
    }

    /// Those of the imports that are linked to something that does nothing real.
    pub fn inert(&self, capabilities: Capabilities) -> Vec<String> {
        self.imports.iter().filter(|i| is_wasi_0_2(i) && capabilities.leaves_inert(i)).cloned().collect()
    }

    pub fn exports(&self) -> &[String] {
        &self.exports
    }

    /// the component's bytes, encoded if a core module was given
    pub fn component(&self) -> &[u8] {
        &self.component
    }
}

impl std::fmt::Debug for Artifact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Artifact").field("name", &self.name).field("digest", &self.digest).finish_non_exhaustive()
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn corrupt(error: &wasmparser::BinaryReaderError) -> String {
    format!("is truncated or corrupt: {} (at byte {}); build or copy it again", error.message(), error.offset())
}

fn is_core_module(bytes: &[u8]) -> std::result::Result<bool, String> {
    if bytes.is_empty() {
        return Err("is empty; build or copy it again".to_owned());
    }
    if !bytes.starts_with(b"\0asm") {
        let hint = if bytes.starts_with(b"(module") || bytes.starts_with(b"(component") {
            "it looks like the text format: convert it with `wasm-tools parse` first"
        } else if bytes.starts_with(b"\x7fELF") {
            "it is a native library: build with `--target wasm32-unknown-unknown`"
        } else {
            "a plugin is a .wasm component or core module"
        };
        return Err(format!("is not WebAssembly; {hint}"));
    }
    match Parser::new(0).parse_all(bytes).next() {
        Some(Ok(Payload::Version { encoding, .. })) => Ok(encoding == Encoding::Module),
        Some(Ok(_)) | None => Err("is truncated or corrupt: it has no header; build or copy it again".to_owned()),
        Some(Err(e)) => Err(corrupt(&e)),
    }
}

/// Wraps a core module that describes its own interface.
fn encode(module: &[u8]) -> std::result::Result<Vec<u8>, String> {
    let mut described = false;
    for payload in Parser::new(0).parse_all(module) {
        match payload.map_err(|e| corrupt(&e))? {
            Payload::CustomSection(section) => described |= section.name().starts_with("component-type"),
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    refuse_core_import(&import.map_err(|e| corrupt(&e))?)?;
                }
            }
            _ => {}
        }
    }
    if !described {
        return Err(
            "is a core module without a description of its interface (no `component-type` section): it was not \
                    built with a Millrace SDK, or a tool stripped its custom sections"
                .to_owned(),
        );
    }
    // The encoder validates the module; what it says is for the plugin's author, and the chain has the reason.
    wit_component::ComponentEncoder::default()
        .validate(true)
        .module(module)
        .and_then(|mut encoder| encoder.encode())
        .map_err(|e| format!("is a core module that does not fit the interface it describes: {e:#}"))
}

fn refuse_core_import(import: &wasmparser::Import<'_>) -> std::result::Result<(), String> {
    let (module, name) = (import.module, import.name);
    // Names of the component model itself; which interfaces they stand for is looked at once they are encoded.
    let component_model = ["millrace:", "wasi:", "[export]", "$root", "cm32p2"];
    if component_model.iter().any(|prefix| module.starts_with(prefix)) {
        return Ok(());
    }
    Err(match module {
        "wasi_snapshot_preview1" | "wasi_unstable" => format!(
            "imports `{module}` (`{name}`), the first generation of WASI, which this host does not serve; build with \
             `--target wasm32-unknown-unknown`, or make a component with the WASI 0.2 adapter"
        ),
        "env" => format!(
            "imports `{name}` from `env`: a symbol that the linker did not find; add the library that defines it to the plugin"
        ),
        _ => format!("imports `{name}` from `{module}`: a plugin may import `millrace:` and `wasi:…@0.2` only"),
    })
}

/// Names of the component's own imports and exports (not those of what is nested in it).
fn interface(component: &[u8]) -> std::result::Result<(Vec<String>, Vec<String>), String> {
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    // parse_all descends into nested modules and components; their items are not the plugin's interface.
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(component) {
        match payload.map_err(|e| corrupt(&e))? {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    imports.push(import.map_err(|e| corrupt(&e))?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    exports.push(export.map_err(|e| corrupt(&e))?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok((imports, exports))
}

fn refuse_imports(imports: &[String]) -> std::result::Result<(), String> {
    for import in imports {
        if let Some(rest) = import.strip_prefix("millrace:") {
            let (path, version) = rest.split_once('@').unwrap_or((rest, ""));
            let known = matches!(path, "types/types" | "types/host");
            if !known {
                return Err(format!(
                    "imports `{import}`, which no Millrace host has; this one has `millrace:types/host`"
                ));
            }
            if version != TYPES_VERSION {
                return Err(wrong_version(import, version, TYPES_VERSION));
            }
        } else if !is_wasi_0_2(import) {
            return Err(format!(
                "imports `{import}`: a plugin may import `millrace:` and `wasi:…@0.2` interfaces only, all else is refused"
            ));
        }
    }
    Ok(())
}

pub(crate) fn is_wasi_0_2(import: &str) -> bool {
    import.starts_with("wasi:") && import.rsplit_once('@').is_some_and(|(_, v)| v == "0.2" || v.starts_with("0.2."))
}

fn wrong_version(name: &str, version: &str, served: &str) -> String {
    let found = if version.is_empty() { "without a version".to_owned() } else { format!("at {version}") };
    format!(
        "was built against `{name}` ({found}), this host serves {served}; rebuild the plugin with the SDK of this \
         Millrace, or run it with the Millrace that it was built for"
    )
}

fn find_kind(exports: &[String]) -> std::result::Result<Kind, String> {
    let mut found = Kind::ALL.into_iter().filter(|k| exports.contains(&k.export(k.wit_version())));
    match (found.next(), found.next()) {
        (Some(kind), None) => return Ok(kind),
        (Some(a), Some(b)) => {
            let (a, b) = (a.with_article(), b.with_article());
            return Err(format!("is both {a} and {b} plugin; a plugin is one of them"));
        }
        (None, _) => {}
    }
    for export in exports {
        for kind in Kind::ALL {
            let versioned = kind.export("");
            if let Some(version) = export.strip_prefix(&versioned) {
                return Err(wrong_version(export, version, kind.wit_version()));
            }
            if export == versioned.trim_end_matches('@') {
                return Err(wrong_version(export, "", kind.wit_version()));
            }
        }
    }
    let has = if exports.is_empty() {
        "exports nothing".to_owned()
    } else {
        let shown: Vec<_> = exports.iter().take(8).map(|e| format!("`{e}`")).collect();
        format!("exports {}", shown.join(", "))
    };
    Err(format!(
        "{has}; a plugin exports `{}` (or `millrace:transform`, `millrace:join`): is this the right file?",
        Kind::Aggregation.export(AGGREGATION_VERSION)
    ))
}

#[cfg(test)]
mod tests;
