//! From a process's arguments to the names by which it is known: its program, its script, its package. Never the
//! command line as a whole, which names files and search words too.

use super::known::{HINTS, Kind, Known, TABLE, With, fits};

/// What a process is called.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    /// Its program, its script, its package.
    pub names: Vec<String>,
    /// The arguments behind those.
    pub rest: Vec<String>,
    /// Whether it only starts another and waits for it: a shell with one command, `npm exec`, `timeout`.
    pub wraps: bool,
}

const SHELLS: &[&str] = &["sh", "bash", "dash", "zsh", "ash", "ksh", "fish"];
const WRAPPERS: &[&str] = &[
    "env",
    "timeout",
    "nice",
    "ionice",
    "nohup",
    "setsid",
    "stdbuf",
    "time",
    "xvfb-run",
    "catatonit",
    "dumb-init",
    "tini",
];
const RUNNERS: &[&str] = &["npx", "bunx", "uvx", "pipx", "pnpx"];
/// Endings of scripts.
const ENDINGS: &[&str] = &[
    "js", "mjs", "cjs", "ts", "mts", "cts", "py", "pyc", "pyz", "sh", "rb", "exe",
];
/// Names that say nothing: what is around them does.
const PLAIN: &[&str] = &[
    "index", "main", "server", "cli", "__main__", "start", "app", "run", "stdio", "dist", "build",
    "lib", "src", "bin", "out", "package", "driver", "js", "esm", "cjs", "scripts",
];

/// The names of a process with these arguments, executing a file of that name.
pub(crate) fn names(args: &[String], exe: Option<&str>) -> Names {
    let mut words: Vec<&str> = args.iter().map(String::as_str).collect();
    // npm writes what it runs over its arguments, in one.
    let title: Vec<&str>;
    if let Some(first) = words.first().filter(|first| first.starts_with("npm "))
        && words[1..].iter().all(|word| word.is_empty())
    {
        title = first.split(' ').collect();
        words = title;
    }
    let Some((first, rest)) = words.split_first() else {
        return Names::default();
    };
    let program = base(first.trim_start_matches('-'));
    let mut found = Names {
        names: vec![program.to_owned()],
        ..Names::default()
    };
    if let Some(exe) = exe.filter(|exe| *exe != program) {
        found.names.push(exe.to_owned());
    }
    found.read(
        program.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.'),
        rest,
    );
    found
}

impl Names {
    fn read(&mut self, program: &str, words: &[&str]) {
        match program {
            "node" | "nodejs" | "bun" | "deno" | "tsx" | "ts-node" => self.script_of_node(words),
            "python" | "pypy" => self.script_of_python(words),
            "npm" | "pnpm" | "yarn" => match words.split_first() {
                Some((&("exec" | "x" | "dlx"), rest)) => self.package(rest),
                _ => self.rest(words),
            },
            "uv" => match words {
                ["tool", "run", rest @ ..] => self.package(rest),
                ["run", rest @ ..] => {
                    self.package(rest);
                }
                _ => self.rest(words),
            },
            shell if SHELLS.contains(&shell) => self.shell(words),
            runner if RUNNERS.contains(&runner) => match words {
                ["run", rest @ ..] if runner == "pipx" => self.package(rest),
                _ => self.package(words),
            },
            other => {
                self.wraps = WRAPPERS.contains(&other);
                self.rest(words);
            }
        }
    }

    fn rest(&mut self, words: &[&str]) {
        self.rest = words.iter().map(|word| (*word).to_owned()).collect();
    }

    fn script_of_node(&mut self, mut words: &[&str]) {
        while let Some((word, rest)) = words.split_first() {
            words = match *word {
                "-e" | "--eval" | "-p" | "--print" => return,
                "-r" | "--require" | "--import" | "--loader" | "-C" | "--conditions"
                | "--env-file" => rest.get(1..).unwrap_or_default(),
                // Subcommands of bun and deno.
                "run" => rest,
                "x" => return self.package(rest),
                option if option.starts_with('-') => rest,
                script => {
                    self.script(script);
                    return self.rest(rest);
                }
            };
        }
    }

    fn script_of_python(&mut self, mut words: &[&str]) {
        while let Some((word, rest)) = words.split_first() {
            words = match *word {
                "-c" | "-" => return,
                "-m" => {
                    let Some((module, rest)) = rest.split_first() else {
                        return;
                    };
                    self.names.push((*module).to_owned());
                    if let Some((first, _)) = module.split_once('.') {
                        self.names.push(first.to_owned());
                    }
                    return self.rest(rest);
                }
                "-W" | "-X" => rest.get(1..).unwrap_or_default(),
                option if option.starts_with('-') => rest,
                script => {
                    self.script(script);
                    return self.rest(rest);
                }
            };
        }
    }

    fn shell(&mut self, mut words: &[&str]) {
        while let Some((word, rest)) = words.split_first() {
            match *word {
                option if option.starts_with("--") => {}
                option if option.starts_with('-') || option.starts_with('+') => {
                    if option.contains('c') {
                        self.wraps = true;
                        return;
                    }
                }
                script => {
                    self.script(script);
                    return self.rest(rest);
                }
            }
            words = rest;
        }
    }

    /// What a runner of packages was told to run.
    fn package(&mut self, mut words: &[&str]) {
        self.wraps = true;
        while let Some((word, rest)) = words.split_first() {
            words = match *word {
                "-p" | "--package" | "--from" | "--with" | "--python" | "--directory" | "-c"
                | "--call" => rest.get(1..).unwrap_or_default(),
                option if option.starts_with('-') => rest,
                package => {
                    self.packaged(package);
                    return self.rest(rest);
                }
            };
        }
    }

    fn packaged(&mut self, package: &str) {
        let package = package
            .split(['=', '[', '<', '>', '~'])
            .next()
            .unwrap_or(package);
        let package = match package.rfind('@') {
            Some(at) if at > 0 => &package[..at],
            _ => package,
        };
        let last = stem(base(package).trim_end_matches(".git"));
        self.names.push(last.to_owned());
        if last != package {
            self.names.push(package.to_owned());
        }
    }

    fn script(&mut self, path: &str) {
        let name = stem(base(path));
        self.names.push(name.to_owned());
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let below = |dir: &str| {
            parts
                .iter()
                .rposition(|part| *part == dir)
                .map(|at| &parts[at + 1..])
        };
        if let Some([first, second, ..]) = below("node_modules").filter(|rest| rest.len() > 1) {
            if first.starts_with('@') {
                self.names.push(format!("{first}/{second}"));
            } else if *first != ".bin" {
                self.names.push((*first).to_owned());
            }
        }
        if let Some([first, _, ..]) = below("site-packages") {
            self.names.push((*first).to_owned());
        }
        if PLAIN.contains(&name) {
            let dirs = &parts[..parts.len().saturating_sub(1)];
            let telling = dirs.iter().rev().find(|dir| !PLAIN.contains(dir));
            self.names.extend(telling.map(|dir| (*dir).to_owned()));
        }
    }

    /// The row of the table that this is, if any; `hinted` tells whether an agent's mark is in the environment.
    pub(crate) fn known(&self, hinted: impl Fn() -> bool) -> Option<&'static Known> {
        TABLE.iter().find(|known| {
            let named = || {
                self.names
                    .iter()
                    .any(|name| known.names.iter().any(|pattern| fits(pattern, name)))
            };
            let word = |words: &[&str]| self.rest.iter().any(|word| words.contains(&word.as_str()));
            let flag = |flags: &[&str]| {
                self.rest
                    .iter()
                    .any(|word| flags.iter().any(|flag| word.starts_with(flag)))
            };
            named()
                && match known.with {
                    With::Nothing => true,
                    With::Word(words) => word(words),
                    With::Flag(flags) => flag(flags),
                    With::WordOrHint(words) => word(words) || hinted(),
                }
                && (!known.kind.needs_hint() || hinted())
        })
    }
}

/// The name of the first agent's mark in an environment, as `/proc/PID/environ` gives it.
pub(crate) fn hint(environ: &[u8]) -> Option<&'static str> {
    let names = environ
        .split(|byte| *byte == 0)
        .filter_map(|entry| entry.split(|byte| *byte == b'=').next());
    let names: Vec<&[u8]> = names.collect();
    HINTS
        .iter()
        .find(|hint| names.contains(&hint.as_bytes()))
        .copied()
}

/// The row for what a killed `hostler` left.
pub(crate) const SURVIVOR: Known = Known {
    label: "Survivor",
    kind: Kind::Survivor,
    names: &[],
    with: With::Nothing,
};

/// The row for what is known by an agent's mark alone.
pub(crate) const WORK: Known = Known {
    label: "Background work",
    kind: Kind::Work,
    names: &[],
    with: With::Nothing,
};

fn base(path: &str) -> &str {
    path.rsplit('/')
        .find(|part| !part.is_empty())
        .unwrap_or(path)
}

fn stem(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((stem, ending)) if ENDINGS.contains(&ending) && !stem.is_empty() => stem,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(line: &str) -> Option<&'static str> {
        let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
        names(&args, None).known(|| false).map(|known| known.label)
    }

    #[test]
    fn agents_are_known_by_program_script_and_package() {
        for (line, expected) in [
            ("claude-agent-acp", "Claude Code adapter"),
            ("node /usr/bin/claude-agent-acp", "Claude Code adapter"),
            (
                "/bin/sh /opt/x/claude-code-acp --verbose",
                "Claude Code adapter",
            ),
            (
                "node --no-warnings -r x /a/node_modules/@agentclientprotocol/claude-agent-acp/dist/index.js",
                "Claude Code adapter",
            ),
            (
                "npx -y @agentclientprotocol/claude-agent-acp@0.100.0",
                "Claude Code adapter",
            ),
            ("npm exec @zed-industries/codex-acp", "Codex adapter"),
            ("node /usr/bin/gemini --experimental-acp", "Gemini CLI"),
            ("opencode acp --cwd /x", "OpenCode"),
            ("goose acp", "Goose"),
            ("claude --input-format stream-json --verbose", "Claude Code"),
            ("uvx mcp-server-fetch", "MCP server"),
            (
                "uvx --from git+https://x/y mcp-server-git@1.2",
                "MCP server",
            ),
            ("python3.12 -m mcp_server_time", "MCP server"),
            ("node /home/u/src/github-mcp/dist/index.js", "MCP server"),
            (
                "npx @modelcontextprotocol/server-everything stdio",
                "MCP server",
            ),
            (
                "/opt/chrome/chrome --headless=new --remote-debugging-port=0",
                "Chromium",
            ),
            (
                "/opt/chrome/chrome --type=renderer --headless",
                "Browser process",
            ),
            (
                "node /x/playwright/driver/package/cli.js run-driver",
                "Playwright driver",
            ),
            ("tmux new-session -d -s work", "tmux server"),
            ("gopls serve", "Language server"),
        ] {
            assert_eq!(label(line), Some(expected), "{line}");
        }
        // The title that npm gives itself.
        let title = ["npm exec @playwright/mcp@latest".to_owned(), String::new()];
        assert_eq!(
            names(&title, Some("node"))
                .known(|| false)
                .map(|known| known.kind),
            Some(Kind::McpServer)
        );
    }

    #[test]
    fn who_only_names_an_agent_is_none() {
        for line in [
            "grep claude-agent-acp",
            "vim claude-agent-acp.md",
            "sleep 1000 claude-agent-acp",
            "python3 -c x claude-agent-acp",
            "node -e x claude-agent-acp",
            "node notes.js claude-agent-acp",
            "sh claude-agent-acp.md",
            "sh -c claude-agent-acp",
            "tail -f /var/log/mcp-server-fetch.log",
            "claude",
            "claude -p x --output-format stream-json",
            "codex exec x",
            "gemini",
            "opencode",
            "tmux attach",
            "chrome --new-window",
            "code /src/github-mcp",
            "vite",
            "less /x/node_modules/@modelcontextprotocol/y/index.js",
        ] {
            assert_eq!(label(line), None, "{line}");
        }
    }

    #[test]
    fn a_mark_is_found_by_its_whole_name() {
        assert_eq!(hint(b"A=1\0CLAUDECODE=1\0"), Some("CLAUDECODE"));
        assert_eq!(hint(b"XCLAUDECODE=1\0NOT=CLAUDECODE=1\0"), None);
    }
}
