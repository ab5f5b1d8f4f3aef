//! The asking side: synchronous, one question a connection.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::frame::{Lines, line, send};
use super::protocol::{Answer, Exec, Report, Request};

/// Why a sandbox did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No sandbox runs in this directory.
    #[error("no demo runs in {0}; start one with: isthmus demo --detach")]
    NotRunning(PathBuf),
    /// The connection broke.
    #[error("the demo in {0} stopped answering: {1}")]
    Broken(PathBuf, #[source] io::Error),
    /// It answered, and refused.
    #[error("{0}")]
    Refused(String),
    /// It answered something else than what was asked.
    #[error(
        "the demo in {0} gave an answer that does not fit; is it of another version? stop it with: isthmus demo down"
    )]
    Unexpected(PathBuf),
}

/// A connection to a running sandbox.
#[derive(Debug)]
pub struct Client {
    dir: PathBuf,
    stream: UnixStream,
    lines: Lines,
}

impl Client {
    /// Connects to the sandbox of a directory.
    ///
    /// # Errors
    /// None runs there.
    pub fn connect(dir: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(dir.join(super::FILE))
            .map_err(|_| ClientError::NotRunning(dir.to_owned()))?;
        Ok(Self {
            dir: dir.to_owned(),
            stream,
            lines: Lines::default(),
        })
    }

    /// Asks one question that has one answer.
    ///
    /// # Errors
    /// The connection broke, or the sandbox refused.
    pub fn ask(mut self, request: &Request) -> Result<Answer, ClientError> {
        self.send(request, &[])?;
        self.answer()
    }

    /// What runs where.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn status(self) -> Result<Report, ClientError> {
        let dir = self.dir.clone();
        match self.ask(&Request::Status)? {
            Answer::Report(report) => Ok(*report),
            _ => Err(ClientError::Unexpected(dir)),
        }
    }

    /// Starts a program in a pod with these descriptors as its standard input, output and error.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn exec(mut self, exec: Exec, descriptors: [RawFd; 3]) -> Result<Execution, ClientError> {
        self.send(&Request::Exec(exec), &descriptors)?;
        match self.answer()? {
            Answer::Started => Ok(Execution { client: self }),
            _ => Err(ClientError::Unexpected(self.dir)),
        }
    }

    fn send(&mut self, request: &Request, descriptors: &[RawFd]) -> Result<(), ClientError> {
        let broken = |e| ClientError::Broken(self.dir.clone(), e);
        let bytes = line(request).map_err(broken)?;
        let sent = send(self.stream.as_raw_fd(), &bytes, descriptors).map_err(broken)?;
        self.stream.write_all(&bytes[sent..]).map_err(broken)
    }

    fn answer(&mut self) -> Result<Answer, ClientError> {
        let broken = |dir: &Path, e| ClientError::Broken(dir.to_owned(), e);
        loop {
            match self.lines.next().map_err(|e| broken(&self.dir, e))? {
                Some(Answer::Refused(why)) => return Err(ClientError::Refused(why)),
                Some(answer) => return Ok(answer),
                None => {}
            }
            let mut buffer = [0; 16 << 10];
            let read = self.stream.read(&mut buffer).map_err(|e| broken(&self.dir, e))?;
            if read == 0 {
                return Err(broken(&self.dir, io::ErrorKind::UnexpectedEof.into()));
            }
            self.lines
                .extend(&buffer[..read])
                .map_err(|e| broken(&self.dir, e))?;
        }
    }
}

/// A program that runs in a pod.
#[derive(Debug)]
pub struct Execution {
    client: Client,
}

impl Execution {
    /// A second handle, through which signals are sent while another thread waits.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn signals(&self) -> io::Result<UnixStream> {
        self.client.stream.try_clone()
    }

    /// The line that [`Execution::signals`] takes for a signal.
    ///
    /// # Errors
    /// None in practice; serialisation's signature has one.
    pub fn signal_line(signal: i32) -> io::Result<Vec<u8>> {
        line(&Request::Signal(signal))
    }

    /// Waits for the end and gives back the exit code.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn wait(mut self) -> Result<i32, ClientError> {
        match self.client.answer()? {
            Answer::Exited(code) => Ok(code),
            _ => Err(ClientError::Unexpected(self.client.dir)),
        }
    }
}
