//! Reads SNI and ALPN from a TLS ClientHello that has not been consumed (RFC 8446 4.1.2, RFC 6066 3,
//! RFC 7301), also when it is spread over several records. Nothing is kept, nothing is trusted, every
//! length is checked.

/// A hello longer than this, record headers included, is not read.
pub const MAX_HELLO: usize = 32 * 1024;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hello {
    /// `server_name`, lower case.
    pub server_name: Option<String>,
    /// ALPN in the client's order.
    pub alpn: Vec<Vec<u8>>,
}

/// What a prefix of a connection's bytes is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// More bytes are needed.
    Partial,
    /// A whole ClientHello.
    Hello(Hello),
    /// Not TLS, or not a ClientHello.
    NotTls,
}

/// Reads a prefix of a connection.
pub fn read(bytes: &[u8]) -> Reading {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        // Record: type 22, version 3.x, length, fragment.
        if rest.first().is_some_and(|t| *t != 22) || rest.get(1).is_some_and(|v| *v != 3) {
            return Reading::NotTls;
        }
        if rest.len() < 5 {
            return Reading::Partial;
        }
        let length = usize::from(u16::from_be_bytes([rest[3], rest[4]]));
        if length == 0 || length > 16_384 + 256 {
            return Reading::NotTls;
        }
        let fragment = &rest[5..rest.len().min(5 + length)];
        message.extend_from_slice(fragment);
        // Handshake: type 1, length of 24 bits.
        if message.first().is_some_and(|t| *t != 1) {
            return Reading::NotTls;
        }
        if message.len() >= 4 {
            let length =
                usize::from(message[1]) << 16 | usize::from(message[2]) << 8 | usize::from(message[3]);
            if length > MAX_HELLO {
                return Reading::NotTls;
            }
            if let Some(body) = message.get(4..4 + length) {
                return body_of_hello(body).map_or(Reading::NotTls, Reading::Hello);
            }
        }
        if rest.len() <= 5 + length {
            return if bytes.len() > MAX_HELLO {
                Reading::NotTls
            } else {
                Reading::Partial
            };
        }
        rest = &rest[5 + length..];
    }
}

/// A cursor whose every step may fail.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    fn u8(&mut self) -> Option<usize> {
        self.take(1).map(|b| usize::from(b[0]))
    }

    fn u16(&mut self) -> Option<usize> {
        self.take(2)
            .map(|b| usize::from(u16::from_be_bytes([b[0], b[1]])))
    }
}

fn body_of_hello(body: &[u8]) -> Option<Hello> {
    let mut c = Cursor(body);
    c.take(2 + 32)?;
    let session = c.u8()?;
    c.take(session)?;
    let suites = c.u16()?;
    c.take(suites)?;
    let compressions = c.u8()?;
    c.take(compressions)?;
    let mut hello = Hello::default();
    if c.0.is_empty() {
        return Some(hello);
    }
    let length = c.u16()?;
    let mut extensions = Cursor(c.take(length)?);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let length = extensions.u16()?;
        let mut data = Cursor(extensions.take(length)?);
        match kind {
            0 => {
                let length = data.u16()?;
                let mut list = Cursor(data.take(length)?);
                while !list.0.is_empty() {
                    let kind = list.u8()?;
                    let length = list.u16()?;
                    let name = list.take(length)?;
                    if kind == 0 && hello.server_name.is_none() {
                        hello.server_name = host_name(name);
                    }
                }
            }
            16 => {
                let length = data.u16()?;
                let mut list = Cursor(data.take(length)?);
                while !list.0.is_empty() {
                    let length = list.u8()?;
                    let name = list.take(length)?;
                    if hello.alpn.len() < 32 {
                        hello.alpn.push(name.to_vec());
                    }
                }
            }
            _ => {}
        }
    }
    Some(hello)
}

/// A name of visible ASCII, lower case; anything else counts as no name.
fn host_name(name: &[u8]) -> Option<String> {
    let visible = !name.is_empty() && name.len() <= 255 && name.iter().all(u8::is_ascii_graphic);
    let text = visible.then(|| String::from_utf8_lossy(name).to_ascii_lowercase())?;
    Some(text.strip_suffix('.').map(str::to_owned).unwrap_or(text))
}
