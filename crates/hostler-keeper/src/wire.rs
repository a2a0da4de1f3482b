//! The frame: how a message lies on a `SOCK_SEQPACKET` socket.
//!
//! A frame is an eight-byte header and a body. All numbers are little-endian. A body is a fixed sequence of fields; a
//! newer peer may append fields, which an older one does not read, and a field that is missing at the end reads as its
//! default. That is the whole compatibility rule: fields are appended, never changed.
//!
//! Strings for the kernel (arguments, environment, paths) are stored with their terminating NUL, so that the keeper can
//! point `execve` straight into the received bytes.

use std::ffi::CStr;

/// The protocol's version. A peer that speaks another major version is refused, never guessed at.
///
/// A [`Hello`](crate::message::Hello) and the answer to it are framed as version 1 for ever, and name the version of all
/// that follows.
pub const VERSION: u8 = 1;

/// The oldest version that this side speaks too, so that it adopts the keepers of earlier releases.
pub const OLDEST: u8 = 1;

/// What was added to this version since it was first released: a keeper says its level, and is sent nothing that came with a
/// later one. Level 1: [`Request::Tidy`](crate::message::Request::Tidy), and spawns that carry one and what is to be stored.
pub const LEVEL: u8 = 1;

/// The most bytes of a body that travel inside the frame; longer ones go in a memory file beside it.
pub const INLINE_MAX: usize = 16 * 1024;

/// The most bytes a body may have at all. Larger than any argument list Linux accepts (6 MiB, execve(2)).
pub const BODY_MAX: usize = 16 * 1024 * 1024;

/// The bytes in front of every body.
pub const HEADER_LEN: usize = 8;

/// What went wrong in reading a frame.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WireError {
    /// The frame ends inside a field.
    #[error("the frame is cut short")]
    Short,
    /// The peer speaks another version of the protocol.
    #[error("the peer speaks protocol version {0}, this side {VERSION}")]
    Version(u8),
    /// No such message.
    #[error("unknown message kind {0}")]
    Kind(u8),
    /// A field holds a value that the protocol does not have.
    #[error("the field `{0}` holds an impossible value")]
    Value(&'static str),
    /// The body is longer than any message may be.
    #[error("the message is {0} bytes long, at most {BODY_MAX} are allowed")]
    Long(usize),
}

/// The first eight bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Which message it is.
    pub kind: u8,
    /// The body lies in the memory file that is the frame's first descriptor.
    pub in_file: bool,
    /// Ties an answer to its request; 0 in an event.
    pub id: u32,
}

impl Header {
    /// The header as it is sent.
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let flags = u16::from(self.in_file);
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = VERSION;
        bytes[1] = self.kind;
        bytes[2..4].copy_from_slice(&flags.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.id.to_le_bytes());
        bytes
    }

    /// Reads a header; the rest of `frame` is the body (or nothing, where it lies in a file).
    ///
    /// # Errors
    /// [`WireError::Short`] and [`WireError::Version`].
    pub fn decode(frame: &[u8]) -> Result<(Header, &[u8]), WireError> {
        let (head, body) = frame.split_at_checked(HEADER_LEN).ok_or(WireError::Short)?;
        if head[0] != VERSION {
            return Err(WireError::Version(head[0]));
        }
        let flags = u16::from_le_bytes([head[2], head[3]]);
        let id = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        Ok((
            Header {
                kind: head[1],
                in_file: flags & 1 != 0,
                id,
            },
            body,
        ))
    }
}

/// Builds a body.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An empty body.
    pub fn new() -> Self {
        Self::default()
    }

    /// The finished body.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    /// How long the body is so far, in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes.push(value);
        self
    }

    /// A truth value, as one byte.
    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.u8(u8::from(value))
    }

    /// A 32-bit number.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// A signed 32-bit number.
    pub fn i32(&mut self, value: i32) -> &mut Self {
        self.u32(value.cast_unsigned())
    }

    /// A 64-bit number.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// A 64-bit number that may be absent.
    pub fn option_u64(&mut self, value: Option<u64>) -> &mut Self {
        self.bool(value.is_some()).u64(value.unwrap_or_default())
    }

    /// Bytes, with their length in front.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.u32(value.len() as u32);
        self.bytes.extend_from_slice(value);
        self
    }

    /// A C string, with its NUL.
    pub fn cstr(&mut self, value: &CStr) -> &mut Self {
        self.bytes(value.to_bytes_with_nul())
    }

    /// A list of C strings.
    pub fn cstrs<'a>(&mut self, values: impl ExactSizeIterator<Item = &'a CStr>) -> &mut Self {
        self.u32(values.len() as u32);
        for value in values {
            self.cstr(value);
        }
        self
    }
}

/// Reads a body, field by field.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads `body` from its start.
    pub fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    /// Whether every field was read: the place from which appended fields are absent.
    pub fn at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// A field that was appended later: its default where the peer is older than that.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn appended<T: Default>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, WireError>,
    ) -> Result<T, WireError> {
        if self.at_end() {
            Ok(T::default())
        } else {
            read(self)
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(WireError::Short)?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    /// One byte.
    ///
    /// # Errors
    /// [`WireError::Short`], as for every field.
    pub fn u8(&mut self) -> Result<u8, WireError> {
        Ok(self.array::<1>()?[0])
    }

    /// A truth value.
    ///
    /// # Errors
    /// [`WireError::Value`] for anything but 0 and 1.
    pub fn bool(&mut self) -> Result<bool, WireError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(WireError::Value("bool")),
        }
    }

    /// A 32-bit number.
    ///
    /// # Errors
    /// [`WireError::Short`].
    pub fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// A signed 32-bit number.
    ///
    /// # Errors
    /// [`WireError::Short`].
    pub fn i32(&mut self) -> Result<i32, WireError> {
        Ok(self.u32()?.cast_signed())
    }

    /// A 64-bit number.
    ///
    /// # Errors
    /// [`WireError::Short`].
    pub fn u64(&mut self) -> Result<u64, WireError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A 64-bit number that may be absent.
    ///
    /// # Errors
    /// [`WireError::Short`], [`WireError::Value`].
    pub fn option_u64(&mut self) -> Result<Option<u64>, WireError> {
        let present = self.bool()?;
        let value = self.u64()?;
        Ok(present.then_some(value))
    }

    /// Bytes with their length in front.
    ///
    /// # Errors
    /// [`WireError::Short`].
    pub fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let len = self.u32()?;
        self.take(len as usize)
    }

    /// A C string.
    ///
    /// # Errors
    /// [`WireError::Value`] where the NUL is missing or not at the end.
    pub fn cstr(&mut self) -> Result<&'a CStr, WireError> {
        CStr::from_bytes_with_nul(self.bytes()?).map_err(|_| WireError::Value("string"))
    }

    /// A list of C strings.
    ///
    /// # Errors
    /// Those of [`Reader::cstr`].
    pub fn cstrs(&mut self) -> Result<Vec<&'a CStr>, WireError> {
        let count = self.u32()? as usize;
        // Each string takes five bytes at the least: a count that could not be true reserves no memory.
        if count > self.rest.len() / 5 {
            return Err(WireError::Short);
        }
        (0..count).map(|_| self.cstr()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_the_trip() {
        for in_file in [false, true] {
            let header = Header {
                kind: 7,
                in_file,
                id: 0xdead_beef,
            };
            let frame = [header.encode().as_slice(), b"body"].concat();
            assert_eq!(Header::decode(&frame), Ok((header, b"body".as_slice())));
        }
    }

    #[test]
    fn another_version_is_refused_by_number() {
        let mut frame = Header {
            kind: 1,
            in_file: false,
            id: 1,
        }
        .encode();
        frame[0] = 9;
        assert_eq!(Header::decode(&frame), Err(WireError::Version(9)));
        assert_eq!(Header::decode(&frame[..7]), Err(WireError::Short));
    }

    #[test]
    fn fields_survive_the_trip_and_a_cut_is_seen() {
        let mut writer = Writer::new();
        writer
            .u8(1)
            .bool(true)
            .i32(-5)
            .u64(u64::MAX)
            .option_u64(None)
            .option_u64(Some(3))
            .bytes(b"xyz");
        writer.cstrs([c"a", c"", c"long one"].into_iter());
        let body = writer.finish();
        let mut reader = Reader::new(&body);
        assert_eq!(reader.u8(), Ok(1));
        assert_eq!(reader.bool(), Ok(true));
        assert_eq!(reader.i32(), Ok(-5));
        assert_eq!(reader.u64(), Ok(u64::MAX));
        assert_eq!(reader.option_u64(), Ok(None));
        assert_eq!(reader.option_u64(), Ok(Some(3)));
        assert_eq!(reader.bytes(), Ok(b"xyz".as_slice()));
        assert_eq!(reader.cstrs(), Ok(vec![c"a", c"", c"long one"]));
        assert!(reader.at_end());
        let mut cut = Reader::new(&body[..body.len() - 1]);
        for _ in 0..2 {
            cut.u8().unwrap();
        }
        cut.i32().unwrap();
        cut.u64().unwrap();
        cut.option_u64().unwrap();
        cut.option_u64().unwrap();
        cut.bytes().unwrap();
        assert_eq!(cut.cstrs(), Err(WireError::Short));
    }

    #[test]
    fn a_count_that_cannot_be_true_reserves_nothing() {
        let body = u32::MAX.to_le_bytes();
        assert_eq!(Reader::new(&body).cstrs(), Err(WireError::Short));
    }
}
