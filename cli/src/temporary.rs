//! Names of files that are being made, so that an interrupted process can remove its own.

use std::path::Path;

/// What such names end with.
pub(crate) const SUFFIX: &str = ".tmp";

/// What such names begin with in this process.
pub(crate) fn prefix() -> String {
    format!(".cosmine-{}-", std::process::id())
}

/// Removes the files that this process was making in `directory`.
pub(crate) fn remove_from(directory: &Path) {
    let prefix = prefix();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(&prefix) && name.ends_with(SUFFIX) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_this_process_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let own = path(&format!("{}abc{SUFFIX}", prefix()));
        let others = [path(".cosmine-0-abc.tmp"), path("out.npz"), path(&format!("{}abc", prefix()))];
        for path in others.iter().chain([&own]) {
            std::fs::write(path, "x").unwrap();
        }
        remove_from(directory.path());
        assert!(!own.exists());
        assert!(others.iter().all(|path| path.exists()));
    }
}
