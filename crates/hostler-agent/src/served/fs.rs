//! `fs/*`: text files below the session's roots.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use agent_client_protocol_schema::v1::{
    ReadTextFileRequest, ReadTextFileResponse, WriteTextFileRequest, WriteTextFileResponse,
};
use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, fstatfs, open};
use rustix::io::Errno;

use super::replace::replace;
use super::resolve::{Place, Roots, code};
use crate::rpc::RpcError;

/// The most text that is answered at once, in bytes.
const READ_MOST: u64 = 16 << 20;
/// How far into a file a line is looked for, in bytes.
const SCAN_MOST: u64 = 1 << 30;

/// File systems whose files are the kernel's own: reading one may wait for ever, or tell of the host (statfs(2)).
const KERNELS_OWN: [u64; 10] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0xcafe_4a11, // bpf
    0x6165_676c, // pstorefs
    0x6265_6570, // configfs
];

/// `fs/read_text_file`.
pub(super) fn read(
    roots: &Roots,
    request: &ReadTextFileRequest,
) -> Result<ReadTextFileResponse, RpcError> {
    let path = &request.path;
    let place = roots.find(path)?;
    let (fd, _) = look(&place, path)?.ok_or_else(|| missing(path))?;
    let file = reopen(&fd, OFlags::RDONLY).map_err(|errno| failed(path, errno))?;
    let text = match (request.line, request.limit) {
        (None, None) => whole(file, path)?,
        (line, limit) => lines(file, path, line.unwrap_or(1).max(1), limit)?,
    };
    let text = String::from_utf8(text).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let shown = path.display();
        RpcError::invalid_params(format!("`{shown}` is not UTF-8 text: byte {at}"))
    })?;
    Ok(ReadTextFileResponse::new(text))
}

/// `fs/write_text_file`.
pub(super) fn write(
    roots: &Roots,
    request: &WriteTextFileRequest,
) -> Result<WriteTextFileResponse, RpcError> {
    let path = &request.path;
    let place = roots.find(path)?;
    let old = look(&place, path)?;
    replace(&place, old, request.content.as_bytes()).map_err(|errno| failed(path, errno))?;
    Ok(WriteTextFileResponse::new())
}

/// What is at a place, if anything is: a regular file, or it is refused.
fn look(place: &Place, path: &Path) -> Result<Option<(OwnedFd, Stat)>, RpcError> {
    let fd = match place.look() {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return kernels_own(&place.parent, path).map(|()| None),
        Err(errno) => return Err(failed(path, errno)),
    };
    let stat = fstat(&fd).map_err(|errno| failed(path, errno))?;
    let what = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            kernels_own(&fd, path)?;
            return Ok(Some((fd, stat)));
        }
        FileType::Directory => "a directory",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        // It was none when the path was resolved.
        FileType::Symlink => "a link that was put there just now",
        _ => "a device",
    };
    let shown = path.display();
    let told = format!("`{shown}` is {what}, not a file");
    Err(RpcError::invalid_params(told))
}

/// Whether something is in a file system whose files are the kernel's own, such as `/proc`: no file that is to be opened.
///
/// # Errors
/// The kernel's.
pub fn is_kernels_own(fd: &OwnedFd) -> Result<bool, Errno> {
    // The types' magic numbers have 32 bits, and the field's width differs.
    Ok(KERNELS_OWN.contains(&(fstatfs(fd)?.f_type as u64 & 0xffff_ffff)))
}

fn kernels_own(fd: &OwnedFd, path: &Path) -> Result<(), RpcError> {
    if is_kernels_own(fd).map_err(|errno| failed(path, errno))? {
        let shown = path.display();
        let told = format!("`{shown}` is the kernel's own, not a file");
        return Err(RpcError::invalid_params(told));
    }
    Ok(())
}

/// Opens what was looked at, and nothing else, for reading or writing.
///
/// # Errors
/// The kernel's.
pub fn reopen(fd: &OwnedFd, flags: OFlags) -> Result<File, Errno> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).map(File::from)
}

fn missing(path: &Path) -> RpcError {
    let shown = path.display();
    RpcError::new(RpcError::NOT_FOUND, format!("there is no file `{shown}`"))
}

fn failed(path: &Path, errno: Errno) -> RpcError {
    let error = std::io::Error::from(errno);
    RpcError::new(code(&error), format!("`{}`: {error}", path.display()))
}

fn broken(path: &Path, error: &std::io::Error) -> RpcError {
    RpcError::internal(format!("`{}`: {error}", path.display()))
}

fn too_large(path: &Path) -> RpcError {
    RpcError::invalid_params(format!(
        "`{}` has more than {} MiB to read at once: ask for fewer lines, by line and limit",
        path.display(),
        READ_MOST >> 20
    ))
}

fn whole(file: File, path: &Path) -> Result<Vec<u8>, RpcError> {
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    if size > READ_MOST {
        return Err(too_large(path));
    }
    let mut text = Vec::with_capacity(size as usize);
    // It may grow meanwhile.
    let read = file.take(READ_MOST + 1).read_to_end(&mut text);
    read.map_err(|error| broken(path, &error))?;
    if text.len() as u64 > READ_MOST {
        return Err(too_large(path));
    }
    Ok(text)
}

/// So many lines (`None`: all) from one on, counted from 1, each with its end.
fn lines(file: File, path: &Path, first: u32, count: Option<u32>) -> Result<Vec<u8>, RpcError> {
    let mut file = BufReader::with_capacity(64 << 10, file);
    let mut scanned = 0;
    let mut skip = first - 1;
    while skip > 0 {
        let read = file.fill_buf().map_err(|error| broken(path, &error))?;
        if read.is_empty() {
            return Ok(Vec::new());
        }
        let used = match read.iter().position(|byte| *byte == b'\n') {
            Some(at) => {
                skip -= 1;
                at + 1
            }
            None => read.len(),
        };
        file.consume(used);
        scanned += used as u64;
        if scanned > SCAN_MOST {
            let (shown, most) = (path.display(), SCAN_MOST >> 20);
            return Err(RpcError::invalid_params(format!(
                "line {first} of `{shown}` is not within the first {most} MiB"
            )));
        }
    }
    let mut text = Vec::new();
    let mut left = count.unwrap_or(u32::MAX);
    while left > 0 {
        let room = READ_MOST + 1 - text.len() as u64;
        let read = file.by_ref().take(room).read_until(b'\n', &mut text);
        if read.map_err(|error| broken(path, &error))? == 0 {
            break;
        }
        if text.len() as u64 > READ_MOST {
            return Err(too_large(path));
        }
        left -= 1;
    }
    Ok(text)
}
