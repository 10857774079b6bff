//! Compiled kernels on disk, so that only the first process that ever needs one waits for the compiler.
//!
//! An entry holds its whole key (text, architecture, options, version of the compiler) beside the code, and a checksum;
//! an entry that differs in any of them is as good as none. It is written under a name of its own and then renamed, so
//! many processes may read and write at once and see whole entries only. Entries may be removed at any time. Where the
//! directory cannot be written nothing is kept, and nothing fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Names the directory; `off` keeps nothing.
const VARIABLE: &str = "COSMINE_CACHE";
const MAGIC: &[u8; 8] = b"cosmine1";
const HEADER: usize = 32;

/// The directory: `$COSMINE_CACHE`, else `cosmine` in the user's cache directory.
pub(crate) fn directory() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(directory) = set(VARIABLE) {
        return (directory != Path::new("off")).then_some(directory);
    }
    let user = match cfg!(windows) {
        true => set("LOCALAPPDATA"),
        // The XDG rules: a relative path is no path.
        false => set("XDG_CACHE_HOME").filter(|path| path.is_absolute()).or_else(|| Some(set("HOME")?.join(".cache"))),
    };
    Some(user?.join("cosmine"))
}

/// The code that is kept for a key.
pub(crate) fn get(directory: &Path, key: &[u8]) -> Option<Vec<u8>> {
    let bytes = fs::read(directory.join(name(key))).ok()?;
    let (header, rest) = bytes.split_at_checked(HEADER)?;
    let word = |index: usize| u64::from_le_bytes(header[8 * index..][..8].try_into().expect("eight bytes"));
    let sizes = (usize::try_from(word(1)).ok()?, usize::try_from(word(2)).ok()?);
    let whole = header.starts_with(MAGIC) && sizes.0.checked_add(sizes.1) == Some(rest.len()) && word(3) == fnv(rest);
    let (found, code) = rest.split_at_checked(sizes.0)?;
    (whole && found == key).then(|| code.to_vec())
}

/// Keeps code for a key, if that can be done.
pub(crate) fn put(directory: &Path, key: &[u8], code: &[u8]) {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let mut bytes = Vec::with_capacity(HEADER + key.len() + code.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend((key.len() as u64).to_le_bytes());
    bytes.extend((code.len() as u64).to_le_bytes());
    let checksum = fnv_on(fnv(key), code);
    bytes.extend(checksum.to_le_bytes());
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(code);
    let name = name(key);
    let partial = format!("{name}.{}.{}.partial", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
    let partial = directory.join(partial);
    // What cannot be kept is compiled again.
    let kept = fs::create_dir_all(directory)
        .and_then(|()| fs::write(&partial, &bytes))
        .and_then(|()| fs::rename(&partial, directory.join(name)));
    if kept.is_err() {
        let _ = fs::remove_file(&partial);
    }
}

fn name(key: &[u8]) -> String {
    format!("{:016x}{:016x}.kernel", fnv(key), fnv_on(0x9E37_79B9_7F4A_7C15, key))
}

/// FNV-1a.
fn fnv(bytes: &[u8]) -> u64 {
    fnv_on(0xCBF2_9CE4_8422_2325, bytes)
}

fn fnv_on(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("cosmine-cache-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        directory
    }

    #[test]
    fn what_was_put_is_got_and_nothing_else() {
        let directory = scratch("round");
        assert_eq!(get(&directory, b"key"), None);
        put(&directory, b"key", b"code");
        put(&directory, b"other", b"");
        assert_eq!(get(&directory, b"key").as_deref(), Some(&b"code"[..]));
        assert_eq!(get(&directory, b"other").as_deref(), Some(&b""[..]));
        assert_eq!(get(&directory, b"key2"), None);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 2, "no partial file stays");
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_damaged_entry_is_none() {
        let directory = scratch("damage");
        put(&directory, b"a key of some length", b"some code");
        let file = directory.join(name(b"a key of some length"));
        let whole = fs::read(&file).unwrap();
        for byte in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[byte] ^= 0x10;
            fs::write(&file, &damaged).unwrap();
            assert_eq!(get(&directory, b"a key of some length"), None, "byte {byte}");
            fs::write(&file, &whole[..byte]).unwrap();
            assert_eq!(get(&directory, b"a key of some length"), None, "cut at {byte}");
        }
        put(&directory, b"a key of some length", b"some code");
        assert!(get(&directory, b"a key of some length").is_some(), "a damaged entry is replaced");
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn many_writers_leave_whole_entries() {
        let directory = scratch("many");
        let code = vec![7_u8; 100_000];
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        put(&directory, b"key", &code);
                        assert_eq!(get(&directory, b"key").as_deref(), Some(&code[..]));
                    }
                });
            }
        });
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be_written_keeps_nothing() {
        let file = scratch("file");
        fs::write(&file, b"a file where a directory should be").unwrap();
        put(&file, b"key", b"code");
        assert_eq!(get(&file, b"key"), None);
        fs::remove_file(file).unwrap();
    }
}
