//! A container's output, kept in a file of bounded size.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use crate::{Error, Result};

/// A log that has grown to this many bytes becomes `.1`, in the place of an older one.
const SIZE_MAX: u64 = 10 * 1024 * 1024;

/// Copies what comes out of `pipe` to the log at `path` until its last writer is gone.
pub(super) fn keep(pipe: OwnedFd, path: PathBuf) -> Result<()> {
    let mut pipe = Receiver::from_owned_fd(pipe).map_err(Error::io("read a container's output"))?;
    let mut log = Log::open(path, SIZE_MAX)?;
    tokio::spawn(async move {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            match pipe.read(&mut buffer).await {
                Ok(0) => return,
                Ok(n) => {
                    if let Err(e) = log.write(&buffer[..n]) {
                        // The container goes on; what it says is lost, and that is said once.
                        if !std::mem::replace(&mut log.failed, true) {
                            tracing::error!(log = %log.path.display(), error = %e, "cannot be written");
                        }
                    }
                }
                Err(e) => {
                    tracing::error!(log = %log.path.display(), error = %e, "the output cannot be read");
                    return;
                }
            }
        }
    });
    Ok(())
}

struct Log {
    path: PathBuf,
    file: File,
    size: u64,
    limit: u64,
    failed: bool,
}

impl Log {
    fn open(path: PathBuf, limit: u64) -> Result<Self> {
        let file = open(&path).map_err(Error::io(format!("open {}", path.display())))?;
        let size = file.metadata().map_or(0, |m| m.len());
        Ok(Self {
            path,
            file,
            size,
            limit,
            failed: false,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.size >= self.limit {
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            std::fs::rename(&self.path, old)?;
            self.file = open(&self.path)?;
            self.size = 0;
        }
        self.file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_keeps_its_bound() {
        let dir = std::env::temp_dir().join(format!("isthmus-log-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("app.log");
        let mut log = Log::open(path.clone(), 100).unwrap();
        for i in 0..50 {
            log.write(format!("line {i:02}\n").as_bytes()).unwrap();
        }
        let now = std::fs::read_to_string(&path).unwrap();
        let before = std::fs::read_to_string(dir.join("app.log.1")).unwrap();
        assert!(now.ends_with("line 49\n"), "{now}");
        assert!(now.len() <= 108 && before.len() <= 108);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 2);
        // A restarted container goes on in the same file.
        drop(log);
        Log::open(path.clone(), 100).unwrap().write(b"again\n").unwrap();
        assert!(
            std::fs::read_to_string(&path)
                .unwrap()
                .ends_with("line 49\nagain\n")
        );
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
