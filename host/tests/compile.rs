//! Compiling in a process of its own: the same plugin as in this process, and a component that is made to take all of the
//! compiler's time or memory ends in an error.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace::plugin::{Artifact, Compiler, PluginEngine, PluginError, inspect};

fn millrace() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_millrace"))
}

fn leb(mut value: usize) -> Vec<u8> {
    let mut bytes = vec![];
    loop {
        let low = u8::try_from(value & 0x7f).unwrap();
        value >>= 7;
        bytes.push(if value > 0 { low | 0x80 } else { low });
        if value == 0 {
            return bytes;
        }
    }
}

fn section(id: u8, body: &[u8]) -> Vec<u8> {
    [vec![id], leb(body.len()), body.to_vec()].concat()
}

/// Exports an empty instance under a plugin's name, and holds this core module.
fn component(module: &[u8]) -> Artifact {
    let name = b"millrace:transform/transform@0.1.0";
    let named = [&[0, u8::try_from(name.len()).unwrap()], &name[..]].concat();
    let bytes = [
        b"\0asm\x0d\0\x01\0".to_vec(),
        section(1, module),
        section(5, &[1, 1, 0]),
        section(11, &[&[1][..], &named, &[5, 0, 0]].concat()),
    ]
    .concat();
    Artifact::from_bytes("p", bytes, None).unwrap()
}

/// One function with these locals (all i64) and this code.
fn function(locals: usize, code: &[u8]) -> Vec<u8> {
    let body = [&[1][..], &leb(locals), &[0x7e], code, &[0x0b]].concat();
    [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, &[1, 0x60, 0, 0]),
        section(3, &[1, 0]),
        section(10, &[&[1][..], &leb(body.len()), &body].concat()),
    ]
    .concat()
}

/// Many variables that live through many nested loops with jumps to each of them: quadratic work from linear bytes.
fn bomb() -> Vec<u8> {
    let (locals, depth, jumps) = (500, 400, 1_000);
    let mut code = vec![];
    for _ in 0..depth {
        code.extend([0x03, 0x40]);
    }
    for jump in 0..jumps {
        // local[n] = local[n] * local[n + 1] + local[0]
        let (a, b) = (leb(jump % locals), leb((jump * 7 + 1) % locals));
        code.extend([&[0x20][..], &a, &[0x20], &b, &[0x7e, 0x20, 0, 0x7c, 0x21], &a].concat());
        // a table of jumps, if that is odd
        code.extend([&[0x02, 0x40, 0x20][..], &a, &[0xa7, 0x0e], &leb(depth)].concat());
        for target in 0..=depth {
            code.extend(leb(target));
        }
        code.push(0x0b);
    }
    code.extend(std::iter::repeat_n(0x0b, depth));
    function(locals, &code)
}

/// Variables that live through many calls: memory that grows with the square of the bytes.
fn hoard() -> Vec<u8> {
    let locals = 100;
    let mut code = vec![];
    for step in 0..20_000 {
        let (a, b) = (leb(step % locals), leb((step * 7 + 1) % locals));
        code.extend([&[0x20][..], &a, &[0x20], &b, &[0x7e, 0x21], &a].concat());
        // if local[a] { this function }
        code.extend([&[0x20][..], &a, &[0xa7, 0x04, 0x40, 0x10, 0, 0x0b]].concat());
    }
    function(locals, &code)
}

fn loading(artifact: &Artifact, compiler: Compiler) -> String {
    let engine = Arc::new(PluginEngine::with_compiler(None, compiler).unwrap());
    match inspect(&engine, artifact).unwrap_err() {
        PluginError::Load { plugin, message } => {
            assert_eq!(plugin, "`p`");
            message
        }
        other => panic!("{other}"),
    }
}

fn child(memory_mib: u64, cpu_seconds: u64) -> Compiler {
    Compiler::Child { program: millrace(), memory_bytes: memory_mib << 20, cpu_seconds }
}

#[test]
fn a_child_compiles_and_says_what_is_wrong() {
    // It compiles: what is missing is found afterwards.
    let harmless = component(&function(1, &[]));
    let message = loading(&harmless, Compiler::child(millrace()));
    assert!(message.starts_with("does not fit this host's interface"), "{message}");
    assert_eq!(message, loading(&harmless, Compiler::InProcess));

    let invalid = component(&function(1, &[0x6a]));
    let message = loading(&invalid, Compiler::child(millrace()));
    assert!(message.starts_with("is not valid WebAssembly") && message.contains("type mismatch"), "{message}");
    assert_eq!(message, loading(&invalid, Compiler::InProcess));
}

#[test]
fn a_compile_bomb_runs_out_of_time() {
    let start = Instant::now();
    let message = loading(&component(&bomb()), child(4_096, 1));
    assert!(message.starts_with("takes more than 1 s of processor time to compile"), "{message}");
    assert!(start.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_compile_bomb_runs_out_of_memory() {
    let message = loading(&component(&hoard()), child(300, 60));
    assert!(message.starts_with("takes more than 300 MiB of memory to compile"), "{message}");
}

#[test]
fn a_compiler_that_is_not_there_is_named() {
    let program = PathBuf::from("/no/such/millrace");
    let message = loading(&component(&function(1, &[])), Compiler::child(program));
    assert!(message.starts_with("cannot start `/no/such/millrace` to compile"), "{message}");
}
