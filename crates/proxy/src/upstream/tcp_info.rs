//! What the kernel knows of a TCP connection (`TCP_INFO`, tcp(7)).
//!
//! The option has no safe wrapper in the crates we use; this is the only module here with `unsafe`, and
//! the call hands the kernel a buffer of our own and its length, nothing else.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::time::Duration;

use nix::libc;

/// Up to and including `tcpi_bytes_acked` (Linux 4.2); the structure only ever grows at its end.
const LENGTH: usize = 128;
/// Offsets in `struct tcp_info` of `linux/tcp.h`.
const UNACKED: usize = 24;
const RTT: usize = 68;
const RTT_VARIANCE: usize = 72;
const BYTES_ACKED: usize = 120;

/// The part that tells whether the peer is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpInfo {
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Its mean deviation.
    pub deviation: Duration,
    /// Segments sent and not acknowledged.
    pub unacked: u32,
    /// Bytes acknowledged so far.
    pub acked: u64,
}

impl TcpInfo {
    /// Asks the kernel.
    ///
    /// # Errors
    /// The descriptor is no TCP socket, or the kernel is older than Linux 4.2.
    pub fn of(socket: impl AsFd) -> io::Result<Self> {
        let mut raw = [0u8; LENGTH];
        let mut length = LENGTH as libc::socklen_t;
        // SAFETY: `raw` is writable for `length` bytes, and the descriptor is open while it is borrowed.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                raw.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        if (length as usize) < LENGTH {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let number = |at: usize| u32::from_ne_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
        let mut acked = [0u8; 8];
        acked.copy_from_slice(&raw[BYTES_ACKED..]);
        Ok(Self {
            rtt: Duration::from_micros(number(RTT).into()),
            deviation: Duration::from_micros(number(RTT_VARIANCE).into()),
            unacked: number(UNACKED),
            acked: u64::from_ne_bytes(acked),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_kernel_counts_what_the_peer_acknowledged() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        let before = TcpInfo::of(&near).unwrap();
        near.write_all(&[7; 1000]).unwrap();
        far.read_exact(&mut [0; 1000]).unwrap();
        far.write_all(b"thanks").unwrap();
        near.read_exact(&mut [0; 6]).unwrap();
        let after = TcpInfo::of(&near).unwrap();
        assert_eq!((after.acked - before.acked, after.unacked), (1000, 0));
        assert!(after.rtt > Duration::ZERO && after.rtt < Duration::from_secs(10));
    }

    #[test]
    fn what_is_no_tcp_socket_is_an_error() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(TcpInfo::of(&one).is_err());
    }
}
