//! Files and directories to objects and findings.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::codes;
use crate::finding::Finding;
use crate::parse::{Parsed, parse};
use crate::yaml::Limits;

/// Directories within directories.
const DEPTH: usize = 16;
/// Files of one directory tree; more is a mistake such as `/`.
const FILES: usize = 20_000;

/// Reads every `*.yaml`, `*.yml` and `*.json` below a directory, or a single file, whatever its name.
/// Files are taken in the order of their paths; of two objects with one key the first counts.
pub fn load(path: &Path) -> Parsed {
    let mut parsed = Parsed::default();
    load_into(path, &mut parsed);
    parsed.drop_duplicates();
    parsed
}

/// Reads several files and directories as one set.
pub fn load_all<P: AsRef<Path>>(paths: &[P]) -> Parsed {
    let mut parsed = Parsed::default();
    for path in paths {
        load_into(path.as_ref(), &mut parsed);
    }
    parsed.drop_duplicates();
    parsed
}

fn load_into(path: &Path, parsed: &mut Parsed) {
    let files = match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => list(path),
        Ok(_) => Ok(vec![path.to_owned()]),
        Err(e) => Err(e),
    };
    match files {
        Err(e) => parsed.absorb(unreadable(path, &e)),
        Ok(files) => {
            for file in files {
                parsed.absorb(match read(&file) {
                    Ok(text) => parse(&text, &file.display().to_string()),
                    Err(e) => unreadable(&file, &e),
                });
            }
        }
    }
}

/// The YAML and JSON files below a directory, by path. Hidden files and directories, editors' droppings
/// and symbolic links to directories are left out.
///
/// # Errors
/// The directory cannot be listed, or holds more than 20000 files.
pub fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    list_into(dir, 0, &mut files)?;
    files.sort();
    Ok(files)
}

fn list_into(dir: &Path, depth: usize, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(['.', '#']) {
            continue;
        }
        let kind = match entry.file_type() {
            Ok(kind) => kind,
            // Gone since it was listed.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        if kind.is_dir() {
            if depth < DEPTH {
                match list_into(&entry.path(), depth + 1, files) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    other => other?,
                }
            }
        } else if is_ours(&name) {
            files.push(entry.path());
            if files.len() > FILES {
                return Err(io::Error::other(format!("it holds more than {FILES} files")));
            }
        }
    }
    Ok(())
}

fn is_ours(name: &str) -> bool {
    [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end))
}

/// Reads a text file of bounded size.
///
/// # Errors
/// It cannot be read, is no regular file, is too large, or is not UTF-8.
pub fn read(path: &Path) -> io::Result<String> {
    let limit = Limits::default().file_bytes as u64;
    // A pipe or device might never end.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("it has more than {limit} bytes")));
    }
    String::from_utf8(bytes).map_err(|e| {
        let line = e.as_bytes()[..e.utf8_error().valid_up_to()]
            .iter()
            .filter(|b| **b == b'\n')
            .count()
            + 1;
        io::Error::new(io::ErrorKind::InvalidData, format!("line {line} is not UTF-8"))
    })
}

/// What is said of a file that cannot be read.
pub fn unreadable(path: &Path, error: &io::Error) -> Parsed {
    let file: Arc<str> = Arc::from(path.display().to_string());
    let finding = Finding::new(
        &codes::UNREADABLE,
        format!("cannot be read: {error}"),
        "check that it exists, is readable by this process, and is UTF-8 text",
    );
    Parsed {
        findings: vec![finding.at(&file, 0)],
        unattributed: true,
        ..Parsed::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> String {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: {name}}}\nspec: {{address: 10.0.0.1}}\n"
        )
    }

    #[test]
    fn a_directory_is_read_in_order_without_droppings() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &[u8]| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("b/two.yml", entry("two").as_bytes());
        write("a.yaml", entry("one").as_bytes());
        write(
            "c.json",
            br#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}"#,
        );
        for dropping in [
            ".a.yaml.swp",
            ".hidden.yaml",
            "a.yaml~",
            "#a.yaml",
            "notes.txt",
            ".git/x.yaml",
        ] {
            write(dropping, b"not: [yaml");
        }
        write("z.yaml", entry("one").as_bytes());
        write("latin1.yaml", b"a: 1\nb: caf\xe9\n");
        std::os::unix::fs::symlink(dir.path(), dir.path().join("loop")).unwrap();

        let parsed = load(dir.path());
        let names: Vec<_> = parsed.objects.iter().map(|o| o.meta.name.as_str()).collect();
        assert_eq!(names, ["one", "two", "n"]);
        let mut found: Vec<_> = parsed
            .findings
            .iter()
            .map(|f| (f.code.id, f.message.as_str()))
            .collect();
        found.sort_unstable();
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0].0, "ISM0005");
        assert_eq!(found[1], ("ISM0007", "cannot be read: line 2 is not UTF-8"));
    }

    #[test]
    fn what_is_not_there_is_a_finding() {
        assert_eq!(
            load(Path::new("/nonexistent/x.yaml")).findings[0].code.id,
            "ISM0007"
        );
        assert!(
            load(Path::new("/dev/zero")).findings[0]
                .message
                .contains("not a regular file")
        );
    }
}
