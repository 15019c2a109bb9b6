//! How much memory of the host a plugin can take: its limit and 16 MiB. Measured in a process of its own, one bomb each,
//! as the growth of its peak resident size.

use super::hostile::table_bomb;
use super::*;

const BOMB: &str = "MILLRACE_TEST_BOMB";
const SLACK_KIB: u64 = 16 << 10;

/// Names, and what of the limits they are allowed to fill.
fn bombs() -> [(&'static str, u64); 7] {
    let memory = limits().memory_bytes;
    [
        ("memory", memory),
        ("giant", memory),
        ("table", 0),
        ("log", 0),
        ("stack", 0),
        ("leak-pollables", 0),
        ("leak-streams", 0),
    ]
}

fn run(bomb: &str) {
    match bomb {
        "table" => drop(WasmFactory::new(&engine(), "guest", &table_bomb(), limits()).err().unwrap()),
        leak if leak.starts_with("leak") => drop(wasi::tried(leak).unwrap_err()),
        "giant" => drop(open(bomb).state(&[0], 0, 1 << 20).unwrap_err()),
        _ => {
            let (columns, groups) = rows(10, 2);
            drop(open(bomb).update(&columns, &groups, 2));
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_plugin_takes_its_limit_and_no_more() {
    if let Ok(bomb) = std::env::var(BOMB) {
        works_afresh();
        if bomb == "table" || bomb.starts_with("leak") {
            run(&bomb); // the compiler's memory is not the plugin's
        }
        // 5: the peak starts anew
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        let before = kib("VmRSS:");
        run(&bomb);
        println!("grown {}", kib("VmHWM:").saturating_sub(before));
        return;
    }
    guests();
    for (bomb, allowed) in bombs() {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "plugin::wasm::tests::memory::a_plugin_takes_its_limit_and_no_more", "--nocapture"])
            .env(BOMB, bomb)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let grown = said.lines().find_map(|line| line.split_once("grown ")).map(|(_, n)| n.parse::<u64>().unwrap());
        let grown = grown.unwrap_or_else(|| panic!("{bomb}: {said} {}", String::from_utf8_lossy(&output.stderr)));
        println!("{bomb}: {} MiB above before, {} MiB allowed", grown >> 10, (allowed >> 20) + 16);
        assert!(grown <= allowed / 1_024 + SLACK_KIB, "{bomb} took {grown} KiB");
        assert!(bomb != "memory" || grown > allowed / 1_024 / 2, "the bomb does not go off: {grown} KiB");
    }
}

#[cfg(target_os = "linux")]
fn kib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
