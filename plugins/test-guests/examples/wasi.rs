//! A transform that uses WASI as guests of other languages do. `config` is `{"mode":"…"}`: each mode tries one thing in
//! `process` and returns, in one row, what came of it.

// A linker of native libraries does not take the names of a component's exports.
#![cfg(target_arch = "wasm32")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::undocumented_unsafe_blocks,
    reason = "a guest that fails is what the tests are about"
)]

use std::cell::RefCell;

wit_bindgen::generate!({
    path: ["../../wit/types", "../../wit/transform", "wit"],
    world: "test:guests/wasi",
    generate_all,
});

use exports::millrace::transform::transform::{Guest, Signature, Transformed};
use millrace::types::types::{Column, ColumnData, DataType, Error, Field, PluginInfo, VarBytes};
use wasi::cli::{environment, exit, stderr, stdin, stdout};
use wasi::clocks::{monotonic_clock, wall_clock};
use wasi::sockets::network::IpAddressFamily;
use wasi::sockets::{instance_network, ip_name_lookup, tcp_create_socket, udp_create_socket};

thread_local! {
    static MODE: RefCell<String> = RefCell::default();
}

const HOUR_NS: u64 = 3_600_000_000_000;

fn tried(mode: &str) -> String {
    match mode {
        "print" => {
            stdout::get_stdout().blocking_write_and_flush(b"first line\nsecond ").unwrap();
            stdout::get_stdout().write(b"line\n").unwrap();
            stderr::get_stderr().blocking_write_and_flush(b"Traceback\nValueError: no budget\n").unwrap();
            exit::exit(Err(()));
            unreachable!()
        }
        "print-and-trap" => {
            stderr::get_stderr().blocking_write_and_flush(b"ValueError: no budget").unwrap();
            panic!()
        }
        "print-much" => {
            let out = stdout::get_stdout();
            for i in 0..500 {
                out.blocking_write_and_flush(format!("line {i}\n").as_bytes()).unwrap();
                out.blocking_flush().unwrap();
                out.write(&[b'x'; 60_000]).unwrap();
            }
            "printed".to_owned()
        }
        "zeroes" => format!("{:?}", stdout::get_stdout().write_zeroes(1 << 40).is_ok()),
        "sleep" => {
            let day = 24 * HOUR_NS;
            monotonic_clock::subscribe_duration(day).block();
            monotonic_clock::subscribe_instant(monotonic_clock::now() + day).block();
            let never = monotonic_clock::subscribe_duration(u64::MAX);
            let readable = stdin::get_stdin();
            let (readable, out) = (readable.subscribe(), stdout::get_stdout());
            let writable = out.subscribe();
            let ready = wasi::io::poll::poll(&[&never, &readable, &writable]);
            format!("{ready:?} {}", never.ready())
        }
        "poll-nothing" => format!("{:?}", wasi::io::poll::poll(&[])),
        "poll-forever" => loop {
            monotonic_clock::subscribe_duration(1).block();
        },
        "clock" => {
            let time = || (wall_clock::now().seconds, monotonic_clock::now());
            let (first, mut second) = (time(), time());
            for _ in 0..100_000 {
                second = time();
            }
            format!("{} {} {}", first.0, second.0 - first.0, second.1 > first.1)
        }
        "random" => {
            let bytes = wasi::random::random::get_random_bytes(40);
            let (a, b) = wasi::random::insecure_seed::insecure_seed();
            format!("{bytes:?} {} {a} {b}", wasi::random::random::get_random_u64())
        }
        "random-giant" => format!("{}", wasi::random::random::get_random_bytes(1 << 40).len()),
        "environment" => format!(
            "{:?} {:?} {:?}",
            environment::get_environment(),
            environment::get_arguments(),
            environment::initial_cwd()
        ),
        "stdin" => {
            let stdin = stdin::get_stdin();
            let spliced = stdout::get_stdout().blocking_splice(&stdin, 10);
            format!("{} {} {}", stdin.read(10).is_err(), stdin.blocking_read(10).is_err(), spliced.is_err())
        }
        "files" => format!("{}", wasi::filesystem::preopens::get_directories().len()),
        "sockets" => {
            let tcp = tcp_create_socket::create_tcp_socket(IpAddressFamily::Ipv4).err();
            let udp = udp_create_socket::create_udp_socket(IpAddressFamily::Ipv6).err();
            let network = instance_network::instance_network();
            let name = ip_name_lookup::resolve_addresses(&network, "example.com").err();
            [tcp, udp, name].map(|denied| denied.map_or("granted", |code| code.name())).join(" ")
        }
        "later" => format!("{}", wall_clock::later().seconds),
        "http" => format!("{}", wasi::http::nobody::ask()),
        "leak-pollables" => loop {
            std::mem::forget(monotonic_clock::subscribe_duration(1));
        },
        "leak-networks" => loop {
            std::mem::forget(instance_network::instance_network());
        },
        "leak-streams" => loop {
            std::mem::forget(stdout::get_stdout());
        },
        other => panic!("no mode {other}"),
    }
}

struct Component;

impl Guest for Component {
    fn info() -> PluginInfo {
        PluginInfo {
            name: "test-wasi".to_owned(),
            version: "1.2.3".to_owned(),
            config_schema: "{}".to_owned(),
            hints: vec![],
        }
    }

    fn open(config: String, _offered: Vec<Field>) -> Result<Signature, Error> {
        MODE.set(config.split('"').nth(3).unwrap_or_default().to_owned());
        let output = vec![Field { name: "text".to_owned(), data_type: DataType::Utf8, nullable: false }];
        Ok(Signature { input: vec![], output })
    }

    fn process(_rows: Vec<Column>, _total_rows: u32) -> Result<Transformed, Error> {
        let text = MODE.with_borrow(|mode| tried(mode)).into_bytes();
        let data = ColumnData::Utf8(VarBytes { offsets: vec![0, text.len() as u32], data: text });
        Ok(Transformed { columns: vec![Column { data, validity: None }], origins: vec![0], rejected: vec![] })
    }
}

export!(Component);
