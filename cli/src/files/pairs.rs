//! (query, key) pairs from `.tsv` and `.parquet`.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef};
use arrow_schema::{DataType, Schema};
use cosmine::Result;

use super::error::{InFile, bad, list};
use super::open::extension;
use super::parquet::{Table, next_batch};
use super::source::Source;

/// Reads (query, key) pairs, in the order of the file.
///
/// `.tsv` has two whole numbers in its first two columns, with a tab between; its first line may be a header.
/// `.parquet` has the columns `query` and `key`, or else its first two columns of integers are taken.
///
/// # Errors
/// [`cosmine::Error::Io`] names the line or row that is no pair.
pub fn read_pairs(path: &Path) -> Result<Vec<(usize, usize)>> {
    match extension(path).as_str() {
        "tsv" => read_tsv(path),
        "parquet" => read_parquet(path),
        other => Err(bad(path, format!("`.{other}` holds no pairs; .tsv and .parquet do"))),
    }
}

fn read_tsv(path: &Path) -> Result<Vec<(usize, usize)>> {
    let source = Source::open(path)?;
    let mut pairs = Vec::new();
    let mut reader: BufReader<&File> = BufReader::new(source.file());
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if reader.read_until(b'\n', &mut line).in_file(path)? == 0 {
            break;
        }
        let text = std::str::from_utf8(&line).map_err(|_| bad(path, format!("line {number} is not text")))?.trim();
        let pair = parse_line(text);
        match pair {
            Some(pair) => pairs.push(pair),
            None if text.is_empty() || (number == 1 && is_header(text)) => {}
            None => {
                let shown: String = text.chars().take(40).collect();
                return Err(bad(
                    path,
                    format!("line {number}, `{shown}`, is not two whole numbers with a tab between"),
                ));
            }
        }
    }
    Ok(pairs)
}

fn parse_line(text: &str) -> Option<(usize, usize)> {
    let mut columns = text.split('\t');
    let mut next = || columns.next()?.trim().parse().ok();
    Some((next()?, next()?))
}

/// Names of two columns, none of which is a number gone wrong.
fn is_header(text: &str) -> bool {
    let mut columns = text.split('\t');
    let mut name =
        || columns.next().is_some_and(|name| name.trim().starts_with(|c: char| c.is_alphabetic() || c == '_'));
    name() && name()
}

fn read_parquet(path: &Path) -> Result<Vec<(usize, usize)>> {
    let table = Table::open(path)?;
    let [query, key] = pair_columns(table.schema()).in_file(path)?;
    let mut pairs = Vec::new();
    let mut batches = table.batches(&[query, key], 0, 1 << 14)?;
    while let Some(batch) = next_batch(&mut batches, path, pairs.len())? {
        // A projection keeps the order of the file.
        let (first, second) = if query < key { (0, 1) } else { (1, 0) };
        let queries = numbers(batch.column(first), pairs.len()).in_file(path)?;
        let keys = numbers(batch.column(second), pairs.len()).in_file(path)?;
        pairs.extend(queries.into_iter().zip(keys));
    }
    match pairs.len() == table.rows() {
        true => Ok(pairs),
        false => {
            Err(bad(path, format!("has {} rows, its footer counts {}; is it damaged?", pairs.len(), table.rows())))
        }
    }
}

fn pair_columns(schema: &Schema) -> std::result::Result<[usize; 2], String> {
    let fields = schema.fields();
    if let (Some((query, _)), Some((key, _))) = (fields.find("query"), fields.find("key")) {
        return Ok([query, key]);
    }
    let integers: Vec<usize> = (0..fields.len()).filter(|at| fields[*at].data_type().is_integer()).collect();
    match integers[..] {
        [query, key, ..] => Ok([query, key]),
        _ => {
            let all: Vec<String> = fields.iter().map(|field| field.name().clone()).collect();
            Err(format!("has no columns `query` and `key` and no two columns of integers; it has {}", list(&all)))
        }
    }
}

fn numbers(array: &ArrayRef, first_row: usize) -> std::result::Result<Vec<usize>, String> {
    match array.data_type() {
        DataType::Int8 => wide::<Int8Type>(array, first_row),
        DataType::Int16 => wide::<Int16Type>(array, first_row),
        DataType::Int32 => wide::<Int32Type>(array, first_row),
        DataType::Int64 => wide::<Int64Type>(array, first_row),
        DataType::UInt8 => wide::<UInt8Type>(array, first_row),
        DataType::UInt16 => wide::<UInt16Type>(array, first_row),
        DataType::UInt32 => wide::<UInt32Type>(array, first_row),
        DataType::UInt64 => wide::<UInt64Type>(array, first_row),
        other => Err(format!("holds {other} where integers are needed")),
    }
}

fn wide<T: ArrowPrimitiveType>(array: &ArrayRef, first_row: usize) -> std::result::Result<Vec<usize>, String>
where
    T::Native: TryInto<usize> + std::fmt::Display,
{
    let array = array.as_primitive::<T>();
    let number = |row: usize| {
        if array.is_null(row) {
            return Err(format!("row {} is null; drop it", first_row + row));
        }
        let value = array.value(row);
        value.try_into().map_err(|_| format!("row {}: {value} is no index", first_row + row))
    };
    (0..array.len()).map(number).collect()
}
