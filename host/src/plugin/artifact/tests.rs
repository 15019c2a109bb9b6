//! Every kind of wrong file, and what is said of it.

use super::*;
use crate::plugin::wasm::tests::guest;

/// A component with these imports and exports and nothing in it.
fn component(imports: &[&str], exports: &[&str]) -> Vec<u8> {
    // Sections: an instance type without items, imports of it, an instance without items, exports of that.
    let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
    let mut section = |id: u8, body: &[u8]| {
        bytes.push(id);
        let mut length = body.len();
        loop {
            let low = (length & 0x7f) as u8;
            length >>= 7;
            bytes.push(if length > 0 { low | 0x80 } else { low });
            if length == 0 {
                break;
            }
        }
        bytes.extend_from_slice(body);
    };
    let named = |name: &str| [&[0, name.len() as u8], name.as_bytes()].concat();
    section(7, &[1, 0x42, 0]);
    for import in imports {
        section(10, &[&[1][..], &named(import), &[5, 0]].concat());
    }
    section(5, &[1, 1, 0]);
    for export in exports {
        section(11, &[&[1][..], &named(export), &[5, imports.len() as u8, 0]].concat());
    }
    bytes
}

fn refused(bytes: Vec<u8>) -> String {
    match Artifact::from_bytes("p", bytes, None).unwrap_err() {
        PluginError::Load { plugin, message } => {
            assert_eq!(plugin, "`p`");
            message
        }
        other => panic!("{other}"),
    }
}

const GOOD: &str = "millrace:aggregation/aggregation@0.1.0";

#[test]
fn a_core_module_is_wrapped_and_a_component_taken_as_it_is() {
    let wrapped = Artifact::from_bytes("p", guest().to_vec(), None).unwrap();
    assert!(wrapped.was_core_module());
    assert_eq!(wrapped.kind(), Kind::Aggregation);
    let again = Artifact::from_bytes("p", wrapped.component().to_vec(), None).unwrap();
    assert!(!again.was_core_module());
    assert_eq!((again.imports(), again.exports()), (wrapped.imports(), wrapped.exports()));
    assert_ne!(again.digest(), wrapped.digest());
    assert_eq!(wrapped.digest(), hex(&Sha256::digest(guest())));
}

#[test]
fn a_file_is_pinned_by_its_digest() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.wasm");
    std::fs::write(&path, guest()).unwrap();
    let digest = hex(&Sha256::digest(guest()));
    Artifact::load("p", &path, Some(&digest.to_uppercase())).unwrap();
    let error = Artifact::load("p", &path, Some("abc")).unwrap_err().to_string();
    assert!(error.contains(&digest) && error.contains("pins abc") && error.contains("p.wasm"), "{error}");
    let error = Artifact::load("p", &dir.path().join("q.wasm"), None).unwrap_err().to_string();
    assert!(error.contains("q.wasm") && error.contains("no such file"), "{error}");
}

#[test]
fn what_is_not_a_plugin_is_told_from_one() {
    assert!(refused(vec![]).contains("is empty"));
    assert!(refused(b"hello".to_vec()).contains("not WebAssembly"));
    assert!(refused(b"(module)".to_vec()).contains("wasm-tools parse"));
    assert!(refused(b"\x7fELF\x02".to_vec()).contains("native library"));
    assert!(refused(b"\0asm\x01\0".to_vec()).contains("truncated or corrupt"));
    assert!(refused(b"\0asm\x01\0\0\0".to_vec()).contains("not built with a Millrace SDK"));
    let large = vec![0; usize::try_from(ARTIFACT_BYTES_MAX).unwrap() + 1];
    assert!(refused(large).contains("larger than 64 MiB"));
}

#[test]
fn every_truncation_is_refused() {
    let whole = Artifact::from_bytes("p", guest().to_vec(), None).unwrap();
    for bytes in [guest(), whole.component()] {
        for cut in (1..60).map(|i| bytes.len() * i / 60) {
            let message = refused(bytes[..cut].to_vec());
            assert!(!message.is_empty());
        }
    }
    assert!(refused(guest()[..guest().len() / 2].to_vec()).contains("truncated or corrupt"));
}

#[test]
fn imports_are_refused_by_name() {
    let with = |import: &str| Artifact::from_bytes("p", component(&[import], &[GOOD]), None);
    with("millrace:types/host@0.1.0").unwrap();
    with("wasi:cli/environment@0.2.3").unwrap();
    for import in ["wasi:cli/environment@0.3.0", "wasi:io/streams@0.20.0", "wasi:nn/graph", "acme:db/sql@1.0.0"] {
        let message = with(import).unwrap_err().to_string();
        assert!(message.contains(&format!("imports `{import}`")) && message.contains("refused"), "{message}");
    }
    let message = with("millrace:types/network@0.1.0").unwrap_err().to_string();
    assert!(message.contains("`millrace:types/network@0.1.0`, which no Millrace host has"), "{message}");
    let message = with("millrace:types/host@0.9.0").unwrap_err().to_string();
    assert!(message.contains("at 0.9.0") && message.contains("serves 0.1.0"), "{message}");
}

#[test]
fn exports_tell_kind_and_version() {
    let with = |exports: &[&str]| Artifact::from_bytes("p", component(&[], exports), None);
    assert_eq!(with(&[GOOD]).unwrap().kind(), Kind::Aggregation);
    assert_eq!(with(&["millrace:join/join@0.1.0-dev.3"]).unwrap().kind(), Kind::Join);
    let says = |exports: &[&str], expected: &str| {
        let message = with(exports).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    };
    says(&[], "exports nothing; a plugin exports `millrace:aggregation/aggregation@0.1.0`");
    says(&["wasi:http/handler@0.2.0"], "exports `wasi:http/handler@0.2.0`; a plugin exports");
    says(&["millrace:aggregation/aggregation@0.2.0"], "(at 0.2.0), this host serves 0.1.0");
    says(&["millrace:aggregation/aggregation"], "without a version");
    says(&[GOOD, "millrace:join/join@0.1.0-dev.3"], "both an aggregation and a join plugin");
}

#[test]
fn core_imports_are_explained() {
    // A core module that imports one function of type () -> ().
    let with = |module: &str| {
        let mut bytes = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0".to_vec();
        let import = [&[1, module.len() as u8], module.as_bytes(), &[1, b'f', 0, 0]].concat();
        bytes.extend([2, import.len() as u8]);
        bytes.extend(import);
        refused(bytes)
    };
    assert!(with("wasi_snapshot_preview1").contains("first generation of WASI"));
    assert!(with("env").contains("a symbol that the linker did not find"));
    assert!(with("acme").contains("imports `f` from `acme`"));
}
