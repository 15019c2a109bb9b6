//! Written by `millrace plugin bench`: the plugin's own code natively, on the rows that the component got.

use std::time::Duration;

use millrace_plugin::aggregation::{Accumulator, Plugin};
use millrace_plugin::column::{BytesRef, ColumnRef, DataRef, DataType, Field};

type Tested = <plugin::{{type}} as Plugin>::Accumulator;

const CONFIG: &str = {{config}};
const REPEATS: usize = 5;

fn offered() -> Vec<Field> {
    vec![{{offered}}]
}

/// A column's buffers as Arrow has them.
struct Buffers {
    kind: u8,
    validity: Option<Vec<u8>>,
    offsets: Vec<u32>,
    words: Vec<u64>,
    halves: Vec<u32>,
    bytes: Vec<u8>,
}

fn main() {
    let path = std::env::args().nth(1).expect("the rows' file");
    let mut input = Reader(std::fs::read(path).expect("the rows' file"), 0);
    let (rows, total, count) = (input.number() as usize, input.number(), input.number());
    let groups: Vec<u32> = (0..rows).map(|_| input.number()).collect();
    let columns: Vec<Buffers> = (0..count).map(|_| input.column(rows)).collect();
    for batch in std::env::args().skip(2) {
        let batch: usize = batch.parse().expect("rows a batch");
        let least = (0..REPEATS).map(|_| run(&columns, &groups, total, batch)).min().expect("some repeats");
        println!("{batch} {}", least.as_nanos() as f64 / rows as f64);
    }
}

fn run(columns: &[Buffers], groups: &[u32], total: u32, batch: usize) -> Duration {
    let mut plugin = Tested::open(CONFIG, &offered()).expect("opens");
    let started = cpu_time();
    for from in (0..groups.len()).step_by(batch) {
        let to = (from + batch).min(groups.len());
        let columns: Vec<ColumnRef<'_>> = columns.iter().map(|column| column.slice(from, to)).collect();
        plugin.update(&columns, &groups[from..to], total).expect("takes the rows");
    }
    cpu_time() - started
}

impl Buffers {
    /// `from` is a multiple of 64, so that bits begin at a byte.
    fn slice(&self, from: usize, to: usize) -> ColumnRef<'_> {
        let bits = |bits: &'_ [u8]| from / 8..to.div_ceil(8).min(bits.len());
        let halves = &self.halves;
        let data = match self.kind {
            1 => DataRef::Boolean(&self.bytes[bits(&self.bytes)]),
            2 => DataRef::Int32(signed(&halves[from..to])),
            7 => DataRef::Date(signed(&halves[from..to])),
            3 => DataRef::Int64(long(&self.words[from..to])),
            8 => DataRef::Timestamp(long(&self.words[from..to])),
            9 => DataRef::Timestamptz(long(&self.words[from..to])),
            // SAFETY: any bits are a float.
            4 => DataRef::Float32(unsafe { std::slice::from_raw_parts(halves[from..to].as_ptr().cast(), to - from) }),
            // SAFETY: any bits are a double.
            5 => DataRef::Float64(unsafe { std::slice::from_raw_parts(self.words[from..to].as_ptr().cast(), to - from) }),
            6 => DataRef::Decimal(&self.words[2 * from..2 * to]),
            10 => DataRef::Utf8(BytesRef { offsets: &self.offsets[from..=to], data: &self.bytes }),
            11 => DataRef::Binary(BytesRef { offsets: &self.offsets[from..=to], data: &self.bytes }),
            _ => return ColumnRef::MISSING,
        };
        ColumnRef { data, validity: self.validity.as_ref().map(|v| &v[bits(v)]) }
    }
}

fn signed(values: &[u32]) -> &[i32] {
    // SAFETY: the same size and alignment, and any bits are a number.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), values.len()) }
}

fn long(values: &[u64]) -> &[i64] {
    // SAFETY: the same size and alignment, and any bits are a number.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), values.len()) }
}

struct Reader(Vec<u8>, usize);

impl Reader {
    fn take(&mut self, bytes: usize) -> &[u8] {
        self.1 += bytes;
        &self.0[self.1 - bytes..self.1]
    }

    fn number(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().expect("four bytes"))
    }

    fn column(&mut self, rows: usize) -> Buffers {
        let kind = self.take(1)[0];
        let has_validity = self.take(1)[0] == 1;
        let validity = has_validity.then(|| self.take(rows.div_ceil(8)).to_vec());
        let mut column =
            Buffers { kind, validity, offsets: Vec::new(), words: Vec::new(), halves: Vec::new(), bytes: Vec::new() };
        match kind {
            0 => {}
            1 => column.bytes = self.take(rows.div_ceil(8)).to_vec(),
            2 | 4 | 7 => column.halves = (0..rows).map(|_| self.number()).collect(),
            10 | 11 => {
                column.offsets = (0..=rows).map(|_| self.number()).collect();
                let bytes = column.offsets[rows] as usize;
                column.bytes = self.take(bytes).to_vec();
            }
            _ => {
                let words = if kind == 6 { 2 * rows } else { rows };
                let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
                column.words = self.take(8 * words).chunks(8).map(word).collect();
            }
        }
        column
    }
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    #[repr(C)]
    struct Time {
        seconds: i64,
        nanos: i64,
    }
    unsafe extern "C" {
        fn clock_gettime(clock: i32, time: *mut Time) -> i32;
    }
    let clock = if cfg!(target_os = "macos") { 16 } else { 3 };
    let mut time = Time { seconds: 0, nanos: 0 };
    // SAFETY: `time` is valid for writing, and has the layout of a 64-bit `timespec`.
    unsafe { clock_gettime(clock, &mut time) };
    Duration::new(time.seconds as u64, time.nanos as u32)
}
