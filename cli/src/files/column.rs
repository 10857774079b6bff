//! Columns of lists: which one holds the embeddings, and its elements as plain bytes.

use std::ops::Range;

use arrow_array::cast::AsArray;
use arrow_array::types::{ArrowPrimitiveType, Float16Type, Float32Type};
use arrow_array::{Array, ArrayRef, OffsetSizeTrait};
use arrow_buffer::{Buffer, OffsetBuffer};
use arrow_schema::{DataType, Field, Schema};
use cosmine::Dtype;

use super::error::{choose, list};

/// A column of embeddings.
#[derive(Clone, Debug)]
pub(super) struct Column {
    /// Its place among the columns.
    pub(super) index: usize,
    pub(super) dtype: Dtype,
    /// Elements in a row, where the type says it.
    pub(super) dim: Option<usize>,
}

impl Column {
    /// The column called `name`, or the only one that can be embeddings.
    pub(super) fn choose(schema: &Schema, name: Option<&str>) -> Result<Column, String> {
        let all: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
        let fits = |field: &&std::sync::Arc<Field>| list_type(field.data_type()).is_some();
        let fitting: Vec<String> = schema.fields().iter().filter(fits).map(|field| field.name().clone()).collect();
        let name = match name {
            Some(name) => name.to_owned(),
            None => choose("column", "column of float16 or float32 lists", &fitting, &all)?,
        };
        let (index, field) = schema
            .fields()
            .find(&name)
            .ok_or_else(|| format!("has no column `{name}`; its columns are {}", list(&all)))?;
        let (dtype, dim) = list_type(field.data_type()).ok_or_else(|| {
            let kind = field.data_type();
            format!("column `{name}` is {kind}; embeddings are lists of float16 or float32, so cast it and write again")
        })?;
        if dim == Some(0) {
            return Err(format!("column `{name}` has dim 0; a row needs at least one element"));
        }
        Ok(Column { index, dtype, dim })
    }
}

/// Type and number of the elements, where the type can be embeddings.
fn list_type(data_type: &DataType) -> Option<(Dtype, Option<usize>)> {
    let (field, dim) = match data_type {
        DataType::List(field) | DataType::LargeList(field) => (field, None),
        DataType::FixedSizeList(field, dim) => (field, Some(usize::try_from(*dim).ok()?)),
        _ => return None,
    };
    match field.data_type() {
        DataType::Float16 => Some((Dtype::F16, dim)),
        DataType::Float32 => Some((Dtype::F32, dim)),
        _ => None,
    }
}

/// Lists as rows of one length.
pub(super) struct Lists {
    pub(super) dim: usize,
    /// `rows × dim` little-endian elements; shares the array's memory.
    pub(super) elements: Buffer,
}

impl Lists {
    /// The elements of an array of lists. `dim` is that of the rows before it, where there are some; `first_row` is
    /// the number of the array's first row in its file.
    pub(super) fn of(array: &ArrayRef, dim: Option<usize>, first_row: usize) -> Result<Lists, String> {
        if let Some(nulls) = array.nulls().filter(|nulls| nulls.null_count() > 0) {
            let row = (0..nulls.len()).find(|row| nulls.is_null(*row)).unwrap_or(0);
            return Err(format!("row {} is null; drop it or fill it", first_row + row));
        }
        let (values, range, own_dim) = match array.data_type() {
            DataType::List(_) => {
                let lists = array.as_list::<i32>();
                let dim = one_length(lists.offsets(), dim, first_row)?;
                (lists.values(), span(lists.offsets()), dim)
            }
            DataType::LargeList(_) => {
                let lists = array.as_list::<i64>();
                let dim = one_length(lists.offsets(), dim, first_row)?;
                (lists.values(), span(lists.offsets()), dim)
            }
            DataType::FixedSizeList(..) => {
                let lists = array.as_fixed_size_list();
                let own = lists.value_length() as usize;
                (lists.values(), 0..lists.len() * own, own)
            }
            other => return Err(format!("holds {other} where lists are needed")),
        };
        let dim = dim.unwrap_or(own_dim);
        if own_dim != dim && !array.is_empty() {
            return Err(format!("row {first_row} has {own_dim} elements, the rows before it {dim}"));
        }
        let elements = match values.data_type() {
            DataType::Float16 => plain::<Float16Type>(values, range, dim, first_row)?,
            _ => plain::<Float32Type>(values, range, dim, first_row)?,
        };
        Ok(Lists { dim, elements })
    }
}

/// The elements that the lists span. Behind a slice, offsets need not begin at 0.
fn span<O: OffsetSizeTrait>(offsets: &OffsetBuffer<O>) -> Range<usize> {
    offsets[0].as_usize()..offsets[offsets.len() - 1].as_usize()
}

/// The length that all lists have.
fn one_length<O: OffsetSizeTrait>(
    offsets: &OffsetBuffer<O>,
    dim: Option<usize>,
    first_row: usize,
) -> Result<usize, String> {
    let mut lengths = offsets.lengths();
    let Some(dim) = dim.or_else(|| offsets.lengths().next()) else { return Ok(0) };
    match lengths.position(|len| len != dim) {
        None => Ok(dim),
        Some(row) => {
            let len = offsets[row + 1].as_usize() - offsets[row].as_usize();
            Err(format!("row {} has {len} elements, the rows before it {dim}; all need the same", first_row + row))
        }
    }
}

fn plain<T: ArrowPrimitiveType>(
    values: &ArrayRef,
    range: Range<usize>,
    dim: usize,
    first_row: usize,
) -> Result<Buffer, String> {
    let values = values.as_primitive_opt::<T>().ok_or("holds elements of another type than its schema says")?;
    if range.end > values.len() {
        return Err(format!("has lists that end at element {}, but {} elements", range.end, values.len()));
    }
    let values = values.slice(range.start, range.len());
    if let Some(nulls) = values.nulls().filter(|nulls| nulls.null_count() > 0) {
        let element = (0..nulls.len()).find(|element| nulls.is_null(*element)).unwrap_or(0);
        return Err(format!("row {} holds a null; drop the row or fill it", first_row + element / dim.max(1)));
    }
    Ok(values.values().inner().clone())
}
