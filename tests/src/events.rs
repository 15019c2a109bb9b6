//! Seeded ad events, made without the host's generator, and every kind of message that is not one.

use std::fmt::Write;

/// xorshift64*: <https://en.wikipedia.org/wiki/Xorshift#xorshift*>
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        // any odd multiple of it keeps the state from being 0
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    #[allow(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// `0..bound`
    pub fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }

    /// `[0, 1)`
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `0..n`, rank k about as often as 1/(k+1): the continuous form of Zipf's law.
    fn zipf(&mut self, n: u64) -> u64 {
        let rank = ((n as f64 + 1.0).ln() * self.unit()).exp() as u64;
        rank.clamp(1, n) - 1
    }
}

/// What the events of a test look like.
#[derive(Clone, Debug)]
pub struct Shape {
    pub seed: u64,
    pub partitions: i32,
    pub campaigns: u64,
    pub users: u64,
    /// event time of the first
    pub start_ms: i64,
    /// event time that passes from one event to the next
    pub step_us: i64,
    /// events are dated back by up to this much
    pub disorder_ms: u64,
    /// by partition, how far its events are ahead of the others'; those that are not named are not
    pub ahead_ms: Vec<i64>,
}

impl Default for Shape {
    /// 50 events per second of event time: 3,000 to the minute.
    fn default() -> Self {
        Self {
            seed: 1,
            partitions: 4,
            campaigns: 50,
            users: 5_000,
            start_ms: 1_763_000_000_000,
            step_us: 20_000,
            disorder_ms: 4_000,
            ahead_ms: Vec::new(),
        }
    }
}

/// The stream of events of a [`Shape`].
#[derive(Clone, Debug)]
pub struct Events {
    shape: Shape,
    random: Random,
    next: i64,
    text: String,
}

impl Events {
    pub fn new(shape: Shape) -> Self {
        let random = Random::new(shape.seed);
        Self { shape, random, next: 0, text: String::new() }
    }

    /// The next event's partition and its JSON.
    #[allow(clippy::should_implement_trait, reason = "what it gives borrows from it")]
    pub fn next(&mut self) -> (i32, &[u8]) {
        let (i, random) = (self.next, &mut self.random);
        self.next += 1;
        let (high, low) = (random.next(), random.next());
        let user = random.zipf(self.shape.users);
        let campaign = random.zipf(self.shape.campaigns);
        let kind = match random.below(100) {
            0..90 => "impression",
            90..99 => "click",
            _ => "conversion",
        };
        let late_ms = random.below(self.shape.disorder_ms + 1) as i64;
        let partition = (i % i64::from(self.shape.partitions)) as i32;
        let ahead_ms = self.shape.ahead_ms.get(partition as usize).copied().unwrap_or_default();
        let time_ms = self.shape.start_ms + i * self.shape.step_us / 1000 - late_ms + ahead_ms;
        let text = &mut self.text;
        text.clear();
        // writing into a String cannot fail
        let _ = write!(
            text,
            "{{\"event_id\":\"{high:016x}{low:016x}\",\"user_id\":\"user-{user:07}\",\
             \"campaign_id\":\"campaign-{campaign:04}\",\"event_type\":\"{kind}\",\"timestamp\":{time_ms}"
        );
        match random.below(20) {
            0 => {}
            1 => text.push_str(",\"platform\":null"),
            n => {
                let platform = ["ios", "android", "web", "ctv"][n as usize % 4];
                let _ = write!(text, ",\"platform\":\"{platform}\"");
            }
        }
        if kind == "conversion" {
            let _ = write!(text, ",\"revenue\":{}.{:04}", random.below(50), random.below(10_000));
        }
        text.push('}');
        (partition, text.as_bytes())
    }
}

const TEN_MIB: usize = 10 << 20;

/// Every way for a message not to be an event. `None` is a tombstone.
pub fn bad_messages() -> Vec<(&'static str, Option<Vec<u8>>)> {
    let text = |text: &str| Some(text.as_bytes().to_vec());
    let mut broken_utf8 =
        br#"{"event_id":"u","user_id":"u??","campaign_id":"c","event_type":"click","timestamp":1763000000000}"#
            .to_vec();
    if let Some(at) = broken_utf8.windows(2).position(|pair| pair == b"??") {
        broken_utf8[at..at + 2].copy_from_slice(&[0xC3, 0x28]);
    }
    let mut ten_mib = br#"{"event_id":"long","user_id":""#.to_vec();
    ten_mib.resize(TEN_MIB, b'x');
    vec![
        ("empty", Some(Vec::new())),
        ("tombstone", None),
        ("not JSON", text("impression,campaign-0001,user-17")),
        ("cut off", text(r#"{"event_id":"t","user_id":"u","campaign_id":"c","event_ty"#)),
        ("broken UTF-8", Some(broken_utf8)),
        (
            "null in a required column",
            text(r#"{"event_id":"n","user_id":null,"campaign_id":"c","event_type":"click","timestamp":1763000000000}"#),
        ),
        (
            "required column missing",
            text(r#"{"event_id":"m","user_id":"u","event_type":"click","timestamp":1763000000000}"#),
        ),
        (
            "wrong type",
            text(
                r#"{"event_id":"w","user_id":"u","campaign_id":{"id":7},"event_type":"click","timestamp":1763000000000}"#,
            ),
        ),
        (
            "text where a number belongs",
            text(
                r#"{"event_id":"r","user_id":"u","campaign_id":"c","event_type":"conversion","timestamp":1763000000000,"revenue":"much"}"#,
            ),
        ),
        (
            "number out of range",
            text(
                r#"{"event_id":"o","user_id":"u","campaign_id":"c","event_type":"click","timestamp":99999999999999999999999}"#,
            ),
        ),
        (
            "time that is none",
            text(r#"{"event_id":"d","user_id":"u","campaign_id":"c","event_type":"click","timestamp":"last Tuesday"}"#),
        ),
        ("10 MiB without an end", Some(ten_mib)),
        ("array", text(r#"["impression"]"#)),
        (
            "centuries ahead",
            text(r#"{"event_id":"f","user_id":"u","campaign_id":"c","event_type":"click","timestamp":9000000000000}"#),
        ),
    ]
}
