//! Makes new input of old.

/// What breaks readers of text, numbers and paths.
const TOKENS: &[&[u8]] = &[
    b"",
    b"\0",
    b"-1",
    b"1e308",
    b"18446744073709551616",
    b"-9223372036854775808",
    b"0.000000001",
    b"NaN",
    b"../",
    b"//",
    b"%2e%2e",
    b"%",
    b"\r\n",
    b"\"",
    b"\\",
    b"null",
    b"{}",
    b"[[[[[[[[",
    b"\xff\xfe",
    "ü\u{202e}".as_bytes(),
    b"\xf0\x9f\x92\xa9",
];
/// Readers bound what they read; far more than they take only costs time.
const BYTES_MAX: usize = 8192;

/// A few random changes to `input`, with parts of `other`.
pub fn mutate(input: &[u8], other: &[u8], dice: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..dice.usize(1..6) {
        let at = dice.usize(..=bytes.len());
        let end = dice.usize(at..=bytes.len().min(at + 32));
        match dice.u8(0..8) {
            0 => drop(bytes.drain(at..end)),
            1 => drop(bytes.splice(
                at..end,
                dice.choice(TOKENS).copied().unwrap_or_default().iter().copied(),
            )),
            2 => {
                let from = dice.usize(..=other.len());
                let to = dice.usize(from..=other.len().min(from + 64));
                drop(bytes.splice(at..end, other[from..to].iter().copied()));
            }
            3 => {
                let copy = bytes[at..end].repeat(dice.usize(1..20));
                drop(bytes.splice(at..at, copy));
            }
            4 => bytes.truncate(at),
            _ if bytes.is_empty() => bytes.push(dice.u8(..)),
            5 => {
                let at = dice.usize(..bytes.len());
                bytes[at] ^= 1 << dice.u8(0..8);
            }
            6 => {
                let at = dice.usize(..bytes.len());
                bytes[at] = dice.u8(..);
            }
            _ => {
                let at = dice.usize(..bytes.len());
                bytes[at] = *dice
                    .choice(b"0123456789.-eE\"'{}[]:,/ \n".as_slice())
                    .unwrap_or(&b'0');
            }
        }
    }
    bytes.truncate(BYTES_MAX);
    bytes
}
