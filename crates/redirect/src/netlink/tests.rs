use super::*;

#[test]
fn a_message_is_what_the_kernel_reads() {
    let mut m = Message::new(16, 0);
    m.fixed(&[1, 2, 3]);
    m.text(3, "lo");
    m.nest(18, |m| {
        m.u32(1, 7);
    });
    let bytes = m.finish(9).unwrap();
    let mut expected = Vec::new();
    expected.extend_from_slice(&40_u32.to_ne_bytes());
    expected.extend_from_slice(&16_u16.to_ne_bytes());
    expected.extend_from_slice(&1_u16.to_ne_bytes());
    expected.extend_from_slice(&9_u32.to_ne_bytes());
    expected.extend_from_slice(&[0; 4]);
    expected.extend_from_slice(&[1, 2, 3, 0]);
    expected.extend_from_slice(&7_u16.to_ne_bytes());
    expected.extend_from_slice(&3_u16.to_ne_bytes());
    expected.extend_from_slice(b"lo\0\0");
    expected.extend_from_slice(&12_u16.to_ne_bytes());
    expected.extend_from_slice(&(18_u16 | 0x8000).to_ne_bytes());
    expected.extend_from_slice(&8_u16.to_ne_bytes());
    expected.extend_from_slice(&1_u16.to_ne_bytes());
    expected.extend_from_slice(&7_u32.to_ne_bytes());
    assert_eq!(bytes.len(), expected.len());
    assert_eq!(bytes, expected);

    let frame = Frames::new(&bytes).next().unwrap().unwrap();
    assert_eq!((frame.kind, frame.sequence), (16, 9));
    let (fixed, attributes) = frame.split(3).unwrap();
    assert_eq!(fixed, [1, 2, 3]);
    assert_eq!(attributes.clone().find(3).unwrap().unwrap().text().unwrap(), "lo");
    let nest = attributes.find(18).unwrap().unwrap().nested();
    assert_eq!(nest.find(1).unwrap().unwrap().u32().unwrap(), 7);
}

#[test]
fn an_attribute_that_does_not_fit_is_an_error() {
    let mut m = Message::new(1, 0);
    m.bytes(1, &vec![0; 70_000]);
    assert!(m.finish(1).is_err());

    let mut m = Message::new(1, 0);
    m.nest(1, |m| {
        m.bytes(1, &vec![0; 40_000]).bytes(2, &vec![0; 40_000]);
    });
    assert!(m.finish(1).is_err());
}

/// Whatever the bytes, reading ends without a panic: every truncation and every single corrupted byte.
#[test]
fn damaged_datagrams_are_refused() {
    let mut m = Message::new(16, 0);
    m.fixed(&[0; 16]).text(3, "eth0").nest(18, |m| {
        m.u32(1, 7).text(2, "veth");
    });
    let bytes = m.finish(1).unwrap();
    let read = |b: &[u8]| -> bool {
        let mut whole = true;
        for frame in Frames::new(b) {
            let Ok((_, attributes)) = frame.and_then(|f| f.split(16)) else {
                whole = false;
                continue;
            };
            for a in attributes {
                match a {
                    Ok(a) => whole &= a.nested().all(|n| n.is_ok()) || a.kind != 18,
                    Err(_) => whole = false,
                }
            }
        }
        whole
    };
    assert!(read(&bytes));
    for cut in 1..bytes.len() {
        assert!(!read(&bytes[..cut]), "cut at {cut}");
    }
    for at in 0..bytes.len() {
        for value in [0_u8, 1, 3, 0x7f, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] = value;
            read(&damaged);
        }
    }
}
