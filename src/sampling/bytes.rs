//! Bytes and f32 values in text, to the bit: bytes as base64 (RFC 4648, with padding), scores as the words they are.

use serde::{Deserialize, Deserializer, Serializer};

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// For `#[serde(with)]` on bytes.
pub(crate) mod base64 {
    use super::{Deserialize, Deserializer, Serializer, decode, encode};
    use serde::de::Error as _;

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        decode(text.as_bytes())
            .ok_or_else(|| D::Error::custom("rows are no base64: digits, and padding to whole fours"))
    }
}

/// For `#[serde(with)]` on scores: little-endian words as base64, so that each comes back to the bit.
pub(crate) mod words {
    use super::{Deserialize, Deserializer, Serializer, decode, encode};
    use serde::de::Error as _;

    pub(crate) fn serialize<S: Serializer>(values: &[f32], serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        serializer.serialize_str(&encode(&bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f32>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = decode(text.as_bytes()).filter(|bytes| bytes.len().is_multiple_of(4));
        let bytes = bytes.ok_or_else(|| D::Error::custom("scores are no base64 of whole words"))?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect())
    }
}

fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group =
            chunk.iter().enumerate().fold(0_u32, |group, (place, byte)| group | u32::from(*byte) << (16 - 8 * place));
        for digit in 0..4 {
            match digit <= chunk.len() {
                true => text.push(char::from(DIGITS[(group >> (18 - 6 * digit) & 63) as usize])),
                false => text.push('='),
            }
        }
    }
    text
}

fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let (groups, rest) = text.as_chunks::<4>();
    let mut bytes = Vec::with_capacity(groups.len() * 3);
    for (place, group) in groups.iter().enumerate() {
        let padding = group.iter().rev().take_while(|byte| **byte == b'=').count();
        if padding > 2 || (padding > 0 && place + 1 < groups.len()) {
            return None;
        }
        let mut word = 0_u32;
        for byte in &group[..4 - padding] {
            word = word << 6 | u32::from(value(*byte)?);
        }
        word <<= 6 * padding;
        bytes.extend_from_slice(&word.to_be_bytes()[1..4 - padding]);
    }
    rest.is_empty().then_some(bytes)
}

fn value(digit: u8) -> Option<u8> {
    Some(match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_gives_the_published_answers_and_comes_back() {
        // RFC 4648, section 10.
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(decode(text.as_bytes()).unwrap(), bytes.as_bytes());
        }
        let all: Vec<u8> = (0..=255).collect();
        for end in 0..256 {
            assert_eq!(decode(encode(&all[..end]).as_bytes()).unwrap(), &all[..end]);
        }
        for broken in ["Zg=", "Zg=a", "Z===", "Zg==Zg==", "Z*==", "Zm9vY"] {
            assert!(decode(broken.as_bytes()).is_none(), "{broken}");
        }
    }
}
