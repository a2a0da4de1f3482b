//! Watches: `ahp-resource-watch:/ID` channels.
//!
//! A watch is one inotify instance (inotify(7)) and one task. Directories are watched through descriptors that were found below the
//! roots, so that no link leads a watch elsewhere. Changes are gathered for a twentieth of a second and told as one batch. It ends when
//! its last subscriber is gone, when nobody subscribes to it for half a minute, and when what is watched is not below a root any more.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use ahp_types::actions::{ResourceWatchChangedAction, StateAction};
use ahp_types::commands::CreateResourceWatchParams;
use ahp_types::state::{ResourceChange, ResourceChangeType, ResourceWatchState};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use hostler_agent::served::files::{Roots, reopen};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{Dir, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::path::{failed, look, path, work};
use crate::ahp::error::{AhpError, Rejection};
use crate::ahp::hub::{Channel, ChannelState, Dispatched, Held, Hub, Taken, Who, Work};
use crate::ahp::uri;

/// How many watches a host has at the most.
const WATCHES: usize = 128;
/// How many directories one has.
const DIRECTORIES: usize = 8192;
/// How many patterns.
const PATTERNS: usize = 256;
/// For how long changes are gathered.
const GATHER: Duration = Duration::from_millis(50);
/// How many changes are told at once; where there are more, the whole is told to have changed.
const BATCH: usize = 1000;
/// How long nobody may subscribe at first.
const UNCLAIMED: Duration = Duration::from_secs(30);
/// How often it is looked whether the roots are as they were.
const LOOK: Duration = Duration::from_secs(5);

const WANTED: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO);

/// Where the roots are, whenever it is asked.
pub(crate) type RootsNow = Arc<dyn Fn() -> Roots + Send + Sync>;

/// The watches of a host. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Watches {
    hub: Hub,
    count: Arc<AtomicUsize>,
}

/// One that counts.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Watches {
    /// None yet.
    pub(crate) fn new(hub: Hub) -> Self {
        Self {
            hub,
            count: Arc::default(),
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// `createResourceWatch`: gives the channel.
    ///
    /// # Errors
    /// As for reading; and where there are as many as may be.
    pub(crate) async fn create(
        &self,
        roots: RootsNow,
        params: CreateResourceWatchParams,
    ) -> Result<String, AhpError> {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let counted = Counted(self.count.clone());
        if self.count.fetch_add(1, Ordering::Relaxed) >= WATCHES {
            let why = format!("there are {WATCHES} watches already, and more are not kept");
            return Err(AhpError::internal(why));
        }
        let state = ResourceWatchState {
            root: params.uri.clone(),
            recursive: params.recursive.unwrap_or(false),
            excludes: params.excludes.clone(),
            includes: params.includes.clone(),
        };
        let watching = work(&roots(), move |roots| Watching::begin(roots, &params)).await?;
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let channel = format!("ahp-resource-watch:/{:x}-{number}", std::process::id());
        let followers = watch::Sender::new(0_usize);
        let door = Door(followers.clone());
        self.hub.register(
            channel.clone(),
            ChannelState::Watch(Box::new(state)),
            Arc::new(door),
        );
        let (hub, uri) = (self.hub.clone(), channel.clone());
        tokio::spawn(async move {
            let _counted = counted;
            watching
                .run(&hub, &uri, followers.subscribe(), &roots)
                .await;
            hub.remove(&uri);
        });
        Ok(channel)
    }
}

/// What the hub knows of a watch.
#[derive(Debug)]
struct Door(watch::Sender<usize>);

/// A follower. Dropping it is its leaving.
struct Following(watch::Sender<usize>);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Channel for Door {
    fn join<'a>(&'a self, _: &'a Who) -> Work<'a, Result<Option<Held>, AhpError>> {
        self.0.send_modify(|count| *count += 1);
        let following: Held = Box::new(Following(self.0.clone()));
        Box::pin(async { Ok(Some(following)) })
    }

    fn dispatch<'a>(&'a self, _: &'a Who, _: Dispatched) -> Work<'a, Result<Taken, Rejection>> {
        Box::pin(async { Err(Rejection::new("nothing can be dispatched to a watch")) })
    }
}

/// Which paths are told.
#[derive(Debug)]
struct Filter {
    includes: Option<GlobSet>,
    excludes: GlobSet,
}

impl Filter {
    fn new(params: &CreateResourceWatchParams) -> Result<Self, AhpError> {
        let includes = params
            .includes
            .as_ref()
            .map(|given| globs("includes", given));
        let excludes = params
            .excludes
            .as_ref()
            .map(|given| globs("excludes", given));
        Ok(Self {
            includes: includes.transpose()?,
            excludes: excludes.transpose()?.unwrap_or_default(),
        })
    }

    /// Whether a path, as it is below what is watched, is left out, for itself or for a directory that it is in.
    fn is_out(&self, path: &Path) -> bool {
        path.ancestors()
            .any(|path| !path.as_os_str().is_empty() && self.excludes.is_match(path))
    }

    fn tells(&self, path: &Path) -> bool {
        let is_in = |set: &GlobSet| path.ancestors().any(|path| set.is_match(path));
        !self.is_out(path) && self.includes.as_ref().is_none_or(is_in)
    }
}

/// Patterns: `{ "items": [...] }`.
fn globs(what: &str, given: &Value) -> Result<GlobSet, AhpError> {
    let items = given.get("items").unwrap_or(given);
    let items: Vec<String> = serde_json::from_value(items.clone())
        .map_err(|error| AhpError::params(format!("`{what}`: {error}")))?;
    if items.len() > PATTERNS {
        return Err(AhpError::params(format!(
            "`{what}`: at most {PATTERNS} patterns"
        )));
    }
    let mut set = GlobSetBuilder::new();
    for item in items {
        let pattern = item.trim_start_matches("./").trim_end_matches('/');
        let glob = GlobBuilder::new(pattern).literal_separator(true).build();
        set.add(glob.map_err(|error| AhpError::params(format!("`{what}`: {error}")))?);
    }
    set.build()
        .map_err(|error| AhpError::params(format!("`{what}`: {error}")))
}

/// What is watched.
struct Watching {
    inotify: OwnedFd,
    root: PathBuf,
    is_dir: bool,
    recursive: bool,
    filter: Filter,
    /// The directories, by their numbers, as they are below the root.
    watched: HashMap<i32, PathBuf>,
    changes: BTreeMap<PathBuf, ResourceChangeType>,
    /// Something was missed.
    missed: bool,
    /// What was watched is gone.
    gone: bool,
}

impl Watching {
    fn begin(roots: &Roots, params: &CreateResourceWatchParams) -> Result<Self, AhpError> {
        let fail = |errno| failed(&params.uri, errno);
        let root = path(&params.uri)?;
        let (fd, is_dir) = match roots.find_dir(&root) {
            Ok(dir) => (dir, true),
            Err(_) => {
                let place = roots.find(&root)?;
                let found = look(&place, &params.uri)?;
                let none = || AhpError::not_found(format!("there is no `{}`", params.uri));
                (found.ok_or_else(none)?.0, false)
            }
        };
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(fail)?;
        let mut watching = Self {
            inotify,
            root,
            is_dir,
            recursive: params.recursive.unwrap_or(false) && is_dir,
            filter: Filter::new(params)?,
            watched: HashMap::new(),
            changes: BTreeMap::new(),
            missed: false,
            gone: false,
        };
        watching.add(&fd, Path::new(""), false).map_err(|errno| match errno {
            Errno::NOSPC => AhpError::internal(
                "the user has as many watches as the kernel allows (fs.inotify.max_user_watches)",
            ),
            errno => fail(errno),
        })?;
        Ok(watching)
    }

    /// Watches what was found, and what is below it where that is wanted; `tell`: what is in it is new.
    fn add(&mut self, found: &OwnedFd, below: &Path, tell: bool) -> Result<(), Errno> {
        if self.watched.len() >= DIRECTORIES {
            self.missed = true;
            return Ok(());
        }
        // Through the descriptor: what has the name by now is not looked at.
        let link = format!("/proc/self/fd/{}", found.as_raw_fd());
        let number = inotify::add_watch(&self.inotify, &*link, WANTED)?;
        self.watched.insert(number, below.to_owned());
        if !self.recursive && !tell {
            return Ok(());
        }
        let open = reopen(found, OFlags::RDONLY | OFlags::DIRECTORY)?;
        for entry in Dir::read_from(&open)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let path = below.join(name);
            if tell {
                self.note(path.clone(), ResourceChangeType::Added);
            }
            let may_be = matches!(entry.file_type(), FileType::Directory | FileType::Unknown);
            if self.recursive && may_be && !self.filter.is_out(&path) {
                self.descend(found, name, &path, tell)?;
            }
        }
        Ok(())
    }

    fn descend(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
        tell: bool,
    ) -> Result<(), Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(parent, name, flags, Mode::empty()) {
            Ok(below) => match self.add(&below, path, tell) {
                // It went while it was looked at, or may not be looked into.
                Err(Errno::NOENT | Errno::ACCESS | Errno::NOTDIR) => Ok(()),
                answer => answer,
            },
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Takes one change in. What came and went is nothing; what went and came has changed.
    fn note(&mut self, path: PathBuf, kind: ResourceChangeType) {
        use ResourceChangeType::{Added, Deleted, Updated};
        if !path.as_os_str().is_empty() && !self.filter.tells(&path) {
            return;
        }
        if self.changes.len() >= BATCH && !self.changes.contains_key(&path) {
            self.missed = true;
            return;
        }
        let now = match (self.changes.get(&path), kind) {
            (Some(Added), Deleted) => None,
            (Some(Added), _) => Some(Added),
            (Some(Deleted), Added) => Some(Updated),
            (_, kind) => Some(kind),
        };
        match now {
            Some(kind) => self.changes.insert(path, kind),
            None => self.changes.remove(&path),
        };
    }

    /// Reads what has happened.
    fn read(&mut self, roots: &Roots) -> Result<(), Errno> {
        let mut buffer = [std::mem::MaybeUninit::<u8>::uninit(); 16 << 10];
        let mut new = Vec::new();
        let inotify = self.inotify.try_clone().map_err(|_| Errno::MFILE)?;
        let mut events = inotify::Reader::new(&inotify, &mut buffer);
        loop {
            let event = match events.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno),
            };
            let flags = event.events();
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                self.missed = true;
                continue;
            }
            let Some(dir) = self.watched.get(&event.wd()).cloned() else {
                continue;
            };
            if flags.contains(ReadFlags::IGNORED) {
                self.watched.remove(&event.wd());
                continue;
            }
            let is_root = dir.as_os_str().is_empty();
            if flags.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF) {
                if is_root {
                    self.note(PathBuf::new(), ResourceChangeType::Deleted);
                    self.gone = true;
                }
                continue;
            }
            let name = event
                .file_name()
                .map(|name| OsStr::from_bytes(name.to_bytes()));
            let path = match name {
                Some(name) => dir.join(name),
                // What is watched itself; of a directory below, its own parent tells.
                None if is_root => dir,
                None => continue,
            };
            let kind = if flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
                if flags.contains(ReadFlags::ISDIR) && self.recursive {
                    new.push(path.clone());
                }
                ResourceChangeType::Added
            } else if flags.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM) {
                ResourceChangeType::Deleted
            } else {
                ResourceChangeType::Updated
            };
            self.note(path, kind);
        }
        for path in new {
            if !self.filter.is_out(&path)
                && let Ok(found) = roots.find_dir(&self.root.join(&path))
                && let Err(errno) = self.add(&found, &path, true)
            {
                tracing::debug!(path = %path.display(), %errno, "not watched");
                self.missed = true;
            }
        }
        Ok(())
    }

    /// What there is to tell.
    fn batch(&mut self) -> Option<StateAction> {
        let whole = std::mem::take(&mut self.missed);
        let mut changes = std::mem::take(&mut self.changes);
        if whole {
            // More than can be told: whoever follows has to look for himself.
            changes.clear();
            changes.insert(PathBuf::new(), ResourceChangeType::Updated);
        }
        let items: Vec<ResourceChange> = changes
            .into_iter()
            .map(|(path, kind)| ResourceChange {
                uri: match path.as_os_str().is_empty() {
                    true => uri::of_path(&self.root),
                    false => uri::of_path(&self.root.join(path)),
                },
                r#type: kind,
            })
            .collect();
        (!items.is_empty()).then(|| {
            StateAction::ResourceWatchChanged(ResourceWatchChangedAction {
                changes: json!({ "items": items }),
            })
        })
    }

    /// Whether what is watched is still where it may be.
    fn is_inside(&self, roots: &Roots) -> bool {
        match self.is_dir {
            true => roots.find_dir(&self.root).is_ok(),
            false => roots
                .find(&self.root)
                .is_ok_and(|place| place.look().is_ok_and(|found| fstat(&found).is_ok())),
        }
    }

    /// Tells what changes until nobody follows.
    async fn run(
        mut self,
        hub: &Hub,
        channel: &str,
        mut followers: watch::Receiver<usize>,
        roots: &RootsNow,
    ) {
        let Ok(inotify) = self.inotify.try_clone().and_then(hostler_process::register) else {
            return;
        };
        let claimed = followed(&mut followers, true);
        if tokio::time::timeout(UNCLAIMED, claimed).await.is_err() {
            return;
        }
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = followed(&mut followers, false) => return,
                _ = look.tick() => {
                    if !self.gone && !self.is_inside(&roots()) {
                        return;
                    }
                }
                ready = inotify.readable() => {
                    let Ok(mut ready) = ready else { return };
                    ready.clear_ready();
                    tokio::time::sleep(GATHER).await;
                    if self.read(&roots()).is_err() {
                        return;
                    }
                    if let Some(action) = self.batch() {
                        hub.publish(channel, action, None);
                    }
                    if self.gone {
                        return;
                    }
                }
            }
        }
    }
}

/// Waits until somebody follows, or nobody does.
async fn followed(followers: &mut watch::Receiver<usize>, wanted: bool) {
    let _ = followers.wait_for(|count| (*count > 0) == wanted).await;
}
