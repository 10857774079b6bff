//! The headers of parquet, looked through before the library parses them: it allocates what a header says of pages
//! and dictionaries, and recurses into a schema as deep as it goes.

/// Deeper structures than parquet has are refused, in headers and in schemas.
const MAX_DEPTH: usize = 64;
/// A page may say that it is so much larger than its compressed form.
const MAX_EXPANSION: i64 = 1024;
/// Or so large, whatever its compressed form. Pages have about 1 MiB.
const MAX_FREE_BYTES: i64 = 16 << 20;

type Checked<T> = Result<T, String>;

/// Checks the metadata at the end of a file: its lengths lie inside it, and its schema is not too deep.
pub(super) fn check_footer(bytes: &[u8]) -> Checked<()> {
    // FileMetaData: field 2 is the schema, depth first; field 5 of its elements counts their children.
    const SCHEMA: [i16; 1] = [2];
    const CHILDREN: [i16; 2] = [2, 5];
    let (mut children, mut open) = (0_i64, Vec::new());
    walk(bytes, &mut |event| {
        match event {
            Event::Number(path, number) if path == CHILDREN => {
                if !(0..=bytes.len() as i64).contains(&number) {
                    return Err(format!("a group of the schema says it has {number} columns"));
                }
                children = number;
            }
            Event::End(path) if path == SCHEMA => {
                if let Some(left) = open.last_mut() {
                    *left -= 1;
                }
                open.push(std::mem::take(&mut children));
                while open.last() == Some(&0) {
                    open.pop();
                }
                if open.len() > MAX_DEPTH {
                    return Err(format!("its schema is deeper than {MAX_DEPTH} levels"));
                }
            }
            _ => {}
        }
        Ok(())
    })
    .map(drop)
}

/// Checks the header of a page at the beginning of `bytes`: the sizes it says are plausible.
pub(super) fn check_page(bytes: &[u8]) -> Checked<()> {
    // PageHeader: fields 2 and 3 are the sizes; field 1 of field 7 is the number of entries of a dictionary.
    let (mut uncompressed, mut compressed, mut entries) = (0, 0, 0);
    walk(bytes, &mut |event| {
        match event {
            Event::Number([2], number) => uncompressed = number,
            Event::Number([3], number) => compressed = number,
            Event::Number([7, 1], number) => entries = number,
            _ => {}
        }
        Ok(())
    })?;
    if compressed < 0 || !(0..=MAX_FREE_BYTES.max(compressed.saturating_mul(MAX_EXPANSION))).contains(&uncompressed) {
        return Err(format!("a page says that {compressed} bytes expand to {uncompressed}"));
    }
    match (0..=uncompressed).contains(&entries) {
        true => Ok(()),
        false => Err(format!("a dictionary says that {uncompressed} bytes hold {entries} entries")),
    }
}

enum Event<'a> {
    /// A whole number, and the fields that lead to it.
    Number(&'a [i16], i64),
    /// The end of a structure, and the fields that lead to it.
    End(&'a [i16]),
}

type Visit<'a> = dyn FnMut(Event<'_>) -> Checked<()> + 'a;

/// Walks the structure at the beginning of `bytes` in the compact protocol and gives its length.
fn walk(bytes: &[u8], visit: &mut Visit<'_>) -> Checked<usize> {
    let mut walker = Walker { bytes, at: 0, path: Vec::new() };
    walker.structure(visit)?;
    Ok(walker.at)
}

struct Walker<'a> {
    bytes: &'a [u8],
    at: usize,
    path: Vec<i16>,
}

impl Walker<'_> {
    fn structure(&mut self, visit: &mut Visit<'_>) -> Checked<()> {
        let mut field = 0_i16;
        loop {
            let header = self.byte()?;
            if header == 0 {
                return visit(Event::End(&self.path));
            }
            field = match header >> 4 {
                0 => self.zigzag()? as i16,
                delta => field.wrapping_add(i16::from(delta)),
            };
            self.path.push(field);
            // A bool field has its value in the header.
            if !matches!(header & 15, 1 | 2) {
                self.value(header & 15, visit)?;
            }
            self.path.pop();
        }
    }

    fn value(&mut self, kind: u8, visit: &mut Visit<'_>) -> Checked<()> {
        match kind {
            1..=3 => self.skip(1),
            4..=6 => {
                let number = self.zigzag()?;
                visit(Event::Number(&self.path, number))
            }
            7 => self.skip(8),
            8 => {
                let len = self.varint()?;
                self.skip(usize::try_from(len).unwrap_or(usize::MAX))
            }
            9 | 10 => self.list(visit),
            12 if self.path.len() < MAX_DEPTH => self.structure(visit),
            13 => self.skip(16),
            _ => Err(format!("byte {} is not what parquet writes", self.at)),
        }
    }

    fn list(&mut self, visit: &mut Visit<'_>) -> Checked<()> {
        let header = self.byte()?;
        let len = match header >> 4 {
            15 => self.varint()?,
            len => u64::from(len),
        };
        // Each element has a byte at least.
        if len > (self.bytes.len() - self.at) as u64 {
            return Err(self.beyond());
        }
        // Nested lists do not occur in parquet.
        if matches!(header & 15, 9 | 10) {
            return Err(format!("byte {} is not what parquet writes", self.at));
        }
        (0..len).try_for_each(|_| self.value(header & 15, visit))
    }

    fn zigzag(&mut self) -> Checked<i64> {
        let number = self.varint()?;
        Ok((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    fn varint(&mut self) -> Checked<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(format!("a number at byte {} has no end", self.at))
    }

    fn byte(&mut self) -> Checked<u8> {
        let byte = self.bytes.get(self.at).copied().ok_or_else(|| self.beyond())?;
        self.at += 1;
        Ok(byte)
    }

    fn skip(&mut self, len: usize) -> Checked<()> {
        match self.bytes.len() - self.at >= len {
            true => {
                self.at += len;
                Ok(())
            }
            false => Err(self.beyond()),
        }
    }

    fn beyond(&self) -> String {
        format!("byte {} of {} asks for more than there is", self.at, self.bytes.len())
    }
}
