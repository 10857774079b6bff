//! What a record batch says, checked against the file before anything is decoded: the decoder slices and allocates
//! what a batch asks for.

use arrow_ipc::{Block, RecordBatch, root_as_message};

/// A buffer may say that it is so much larger than its compressed form: zstd needs 4 bytes for 128 KiB of one value.
const MAX_EXPANSION: u64 = 1 << 15;
/// More than any file holds, and small enough that sizes computed from it do not overflow.
const MAX_ROWS: i64 = 1 << 40;

/// What is known of all batches.
pub(super) struct BatchSummary {
    /// The first row of each batch, and the number of rows at the end.
    pub(super) starts: Vec<usize>,
    pub(super) compressed: bool,
}

/// Checks one batch, which must end before byte `end`, and counts its rows.
pub(super) fn check_batch(bytes: &[u8], block: &Block, end: usize, summary: &mut BatchSummary) -> Result<(), String> {
    let (metadata, body) = parts(bytes, block, end).ok_or("lies outside the file")?;
    let metadata = metadata.strip_prefix(&[0xFF; 4]).unwrap_or(metadata).get(4..).ok_or("has no header")?;
    let message = root_as_message(metadata).map_err(|error| error.to_string())?;
    let batch = message.header_as_record_batch().ok_or("is no record batch")?;
    let rows = batch.length();
    let before = summary.starts.last().copied().unwrap_or(0);
    let after = usize::try_from(rows).ok().filter(|_| rows <= MAX_ROWS).and_then(|rows| before.checked_add(rows));
    summary.starts.push(after.ok_or_else(|| format!("says it has {rows} rows"))?);
    summary.compressed |= batch.compression().is_some();
    for node in batch.nodes().iter().flatten() {
        if !(0..=MAX_ROWS << 16).contains(&node.length()) || !(0..=node.length()).contains(&node.null_count()) {
            return Err(format!("says it has {} elements, {} null", node.length(), node.null_count()));
        }
    }
    check_buffers(&batch, body)
}

/// Header and body of a batch.
fn parts<'a>(bytes: &'a [u8], block: &Block, end: usize) -> Option<(&'a [u8], &'a [u8])> {
    let start = usize::try_from(block.offset()).ok()?;
    let middle = start.checked_add(usize::try_from(block.metaDataLength()).ok()?)?;
    let last = middle.checked_add(usize::try_from(block.bodyLength()).ok()?)?;
    let whole = bytes.get(..end.min(last)).filter(|whole| whole.len() == last)?;
    Some((whole.get(start..middle)?, &whole[middle..]))
}

fn check_buffers(batch: &RecordBatch<'_>, body: &[u8]) -> Result<(), String> {
    for (number, buffer) in batch.buffers().iter().flatten().enumerate() {
        let start = usize::try_from(buffer.offset()).ok();
        let end = start.and_then(|start| start.checked_add(usize::try_from(buffer.length()).ok()?));
        let range = start.zip(end).map(|(start, end)| start..end);
        let bytes =
            range.and_then(|range| body.get(range)).ok_or_else(|| format!("buffer {number} lies outside it"))?;
        if batch.compression().is_some() && !bytes.is_empty() {
            let (size, rest) = bytes.split_first_chunk::<8>().ok_or_else(|| format!("buffer {number} is too short"))?;
            let (size, have) = (i64::from_le_bytes(*size), rest.len() as u64);
            // −1 says that the buffer is not compressed after all.
            if size < -1 || u64::try_from(size).is_ok_and(|size| size > have.saturating_mul(MAX_EXPANSION)) {
                return Err(format!("buffer {number} says that {have} bytes expand to {size}"));
            }
        }
    }
    Ok(())
}
