//! The hash of a value, over 64-bit words. Frozen: HyperLogLog sketches in stored state depend on it.

const A: u64 = 0x9E37_79B9_7F4A_7C15;
const B: u64 = 0xBF58_476D_1CE4_E5B9;
const C: u64 = 0x94D0_49BB_1331_11EB;

/// Hashes words with 64-bit multiplications only (wasm32 has no wider one), and mixes as SplitMix64 does at the end.
struct Hash(u64);

impl Hash {
    #[inline]
    fn add(&mut self, word: u64) {
        let h = (self.0 ^ word).wrapping_mul(B);
        self.0 = h ^ (h >> 32);
    }

    #[inline]
    fn finish(self) -> u64 {
        let h = (self.0 ^ (self.0 >> 30)).wrapping_mul(B);
        let h = (h ^ (h >> 27)).wrapping_mul(C);
        h ^ (h >> 31)
    }
}

#[inline]
pub fn words(words: &[u64]) -> u64 {
    let mut hash = Hash(A);
    words.iter().for_each(|word| hash.add(*word));
    hash.finish()
}

/// The hash of a string's words.
#[inline]
pub fn text(text: &str) -> u64 {
    let mut hash = Hash(A);
    each_word(text, |word| hash.add(word));
    hash.finish()
}

/// Appends a string's words; their hash.
#[inline]
pub fn push_words(text: &str, out: &mut Vec<u64>) -> u64 {
    let mut hash = Hash(A);
    each_word(text, |word| {
        hash.add(word);
        out.push(word);
    });
    hash.finish()
}

/// A string as words: its bytes, 0xFF (which no UTF-8 holds), zeros up to the next word. Two strings are equal exactly
/// if their words are, none is the beginning of another, and no length has to be kept beside them.
#[inline]
fn each_word(text: &str, mut take: impl FnMut(u64)) {
    let bytes = text.as_bytes();
    let (whole, rest) = bytes.as_chunks::<8>();
    for chunk in whole {
        take(u64::from_le_bytes(*chunk));
    }
    let tail = match bytes.last_chunk::<8>() {
        // the last eight bytes end with the rest: shift the others out
        Some(last) if !rest.is_empty() => u64::from_le_bytes(*last) >> (8 * (8 - rest.len())),
        _ => rest.iter().rev().fold(0, |word, byte| (word << 8) | u64::from(*byte)),
    };
    take(tail | (0xFF << (8 * rest.len())));
}

/// How many of these words belong to the string that begins here.
#[inline]
pub fn count_words(words: &[u64]) -> usize {
    words.iter().position(|word| end_of(*word).is_some()).map_or(words.len(), |last| last + 1)
}

/// Where in a word the string ends: the byte that is 0xFF.
#[inline]
fn end_of(word: u64) -> Option<u32> {
    let inverted = !word;
    let zero = inverted.wrapping_sub(0x0101_0101_0101_0101) & word & 0x8080_8080_8080_8080;
    (zero != 0).then(|| zero.trailing_zeros() / 8)
}

/// Appends the bytes of a string that begins here.
pub fn push_bytes(words: &[u64], out: &mut Vec<u8>) {
    for word in words {
        // always eight: a copy of known length
        out.extend_from_slice(&word.to_le_bytes());
        if let Some(end) = end_of(*word) {
            out.truncate(out.len() + end as usize - 8);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip_and_are_prefix_free() {
        for text in
            ["", "a", "1234567", "12345678", "123456789", "user-0000012345", "ÿÿÿÿ", "日本語のユーザー", "a\0", "\0"]
        {
            let mut w = Vec::new();
            push_words(text, &mut w);
            assert_eq!(count_words(&w), w.len(), "{text:?}");
            let mut b = Vec::new();
            push_bytes(&w, &mut b);
            assert_eq!(b, text.as_bytes());
        }
    }

    /// Sketches in stored state depend on these numbers: a change here is a change of format.
    #[test]
    fn the_hash_is_frozen() {
        let of = |text: &str| {
            let mut w = Vec::new();
            let hash = push_words(text, &mut w);
            assert_eq!([super::text(text), words(&w)], [hash; 2]);
            hash
        };
        assert_eq!([of(""), of("user-0000012345"), words(&[7])], FROZEN);
    }
    const FROZEN: [u64; 3] = [11_161_798_115_716_607_223, 7_850_732_349_687_356_629, 4_193_284_884_188_952_050];
}
