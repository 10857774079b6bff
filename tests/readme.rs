//! README's shell snippets, run as they stand from the repository's root. Its Rust snippets are documentation tests.
//!
//! A snippet is a fenced `sh` block. The few that are not run have a comment above them, `<!-- not run: reason -->`.

use std::path::Path;
use std::process::{Command, Stdio};

const README: &str = include_str!("../README.md");
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[derive(Debug, PartialEq)]
struct Snippet {
    line: usize,
    text: String,
    not_run: bool,
}

fn snippets(text: &str) -> Vec<Snippet> {
    let mut snippets: Vec<Snippet> = Vec::new();
    let (mut inside, mut above) = (false, "");
    for (number, line) in text.lines().enumerate() {
        match (inside, line) {
            (false, "```sh") => {
                let not_run = above.starts_with("<!-- not run: ");
                snippets.push(Snippet { line: number + 1, text: String::new(), not_run });
                inside = true;
            }
            (true, "```") => inside = false,
            (true, _) => snippets.last_mut().expect("a snippet was opened").text.extend([line, "\n"]),
            _ => {}
        }
        above = line;
    }
    assert!(!inside, "a snippet is not closed");
    snippets
}

#[test]
fn snippets_are_found() {
    let text = "a\n```sh\none\ntwo\n```\n<!-- not run: why -->\n```sh\nthree\n```\n```rust\nfour\n```\n";
    let found = snippets(text);
    assert_eq!(found.len(), 2);
    assert_eq!(found[0], Snippet { line: 2, text: "one\ntwo\n".to_owned(), not_run: false });
    assert_eq!(found[1], Snippet { line: 7, text: "three\n".to_owned(), not_run: true });
}

#[test]
fn readme_snippets_run() {
    // What snippets install goes below `target`, and is found first.
    let install = Path::new(env!("CARGO_TARGET_TMPDIR")).join("readme");
    let path = std::env::join_paths(
        std::iter::once(install.join("bin")).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    )
    .unwrap();
    let mut ran = 0;
    for snippet in snippets(README).iter().filter(|snippet| !snippet.not_run) {
        let output = Command::new("bash")
            .args(["-euxo", "pipefail", "-c", &snippet.text])
            .current_dir(ROOT)
            .env("PATH", &path)
            .env("CARGO_INSTALL_ROOT", &install)
            .stdin(Stdio::null())
            .output()
            .expect("bash runs");
        assert!(
            output.status.success(),
            "README.md, line {}: {}\n{}{}",
            snippet.line,
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        ran += 1;
    }
    assert!(ran >= 3, "only {ran} snippets");
    for file in ["negatives.parquet", "negatives.jsonl", "negatives.npz", "gradients/queries.npy"] {
        let len = std::fs::metadata(Path::new(ROOT).join(file)).map(|metadata| metadata.len());
        assert!(matches!(len, Ok(1..)), "{file} was not written: {len:?}");
    }
}
