//! TensorBoard's file format: events of [protocol buffers](https://protobuf.dev/programming-guides/encoding) in
//! TFRecord frames. The few fields that are written are encoded here; their numbers are those of TensorFlow's
//! `event.proto`, `summary.proto` and `histogram.proto`.

/// A message being encoded.
#[derive(Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u64, wire_type: u64) {
        self.varint(field << 3 | wire_type);
    }

    fn integer(mut self, field: u64, value: u64) -> Message {
        self.key(field, 0);
        self.varint(value);
        self
    }

    fn double(mut self, field: u64, value: f64) -> Message {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn float(mut self, field: u64, value: f32) -> Message {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, field: u64, bytes: &[u8]) -> Message {
        self.key(field, 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }

    fn doubles(self, field: u64, values: impl Iterator<Item = f64>) -> Message {
        let packed: Vec<u8> = values.flat_map(f64::to_le_bytes).collect();
        self.bytes(field, &packed)
    }
}

/// `HistogramProto`, of bins that end at `limits`.
pub(super) struct Histogram<'a> {
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) count: f64,
    pub(super) sum: f64,
    pub(super) sum_of_squares: f64,
    pub(super) limits: &'a [f64],
    pub(super) counts: &'a [u64],
}

/// `Summary.Value` with a scalar.
pub(super) fn scalar(tag: &str, value: f64) -> Message {
    Message::default().bytes(1, tag.as_bytes()).float(2, value as f32)
}

/// `Summary.Value` with a histogram.
pub(super) fn histogram(tag: &str, histogram: &Histogram) -> Message {
    let encoded = Message::default()
        .double(1, histogram.min)
        .double(2, histogram.max)
        .double(3, histogram.count)
        .double(4, histogram.sum)
        .double(5, histogram.sum_of_squares)
        .doubles(6, histogram.limits.iter().copied())
        .doubles(7, histogram.counts.iter().map(|count| *count as f64));
    Message::default().bytes(1, tag.as_bytes()).bytes(5, &encoded.0)
}

/// `Event` with a `Summary` of the values, framed.
pub(super) fn summary(wall_time: f64, step: u64, values: &[Message]) -> Vec<u8> {
    let summary = values.iter().fold(Message::default(), |summary, value| summary.bytes(1, &value.0));
    frame(&Message::default().double(1, wall_time).integer(2, step).bytes(5, &summary.0).0)
}

/// The `Event` that begins a file, framed.
pub(super) fn version(wall_time: f64) -> Vec<u8> {
    frame(&Message::default().double(1, wall_time).bytes(3, b"brain.Event:2").0)
}

/// A TFRecord: the length, its checksum, the data, its checksum, all little-endian.
fn frame(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend(length);
    record.extend(checksum(&length).to_le_bytes());
    record.extend(data);
    record.extend(checksum(data).to_le_bytes());
    record
}

/// CRC32C, masked as TFRecord asks for, so that the checksum of data that holds checksums stays good.
fn checksum(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_those_of_the_documentation() {
        // protobuf.dev: field 1 with 150 is 08 96 01; field 2 with "testing" is 12 07 and its bytes.
        assert_eq!(Message::default().integer(1, 150).0, [0x08, 0x96, 0x01]);
        assert_eq!(Message::default().bytes(2, b"testing").0, b"\x12\x07testing");
        assert_eq!(Message::default().double(1, 1.0).0, [0x09, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f]);
        assert_eq!(Message::default().float(2, 1.0).0, [0x15, 0, 0, 0x80, 0x3f]);
    }

    #[test]
    fn checksums_are_castagnoli() {
        // RFC 3720, B.4: 32 bytes of zeros have the CRC 8a9136aa.
        let crc = 0x8a91_36aa_u32;
        assert_eq!(checksum(&[0; 32]), crc.rotate_right(15).wrapping_add(0xa282_ead8));
    }
}
