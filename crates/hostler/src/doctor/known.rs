//! The table of known programs: what agents are, and what they start. Data first; [`crate::doctor::words`] says how a
//! process gets the names that are looked up here.

/// What a known program is to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// An agent, or what speaks for one, on its standard streams.
    Agent,
    /// A server of the Model Context Protocol.
    McpServer,
    /// A browser without windows.
    Browser,
    /// What belongs to a browser, or drives one.
    BrowserPart,
    /// tmux or screen.
    Multiplexer,
    /// A language server.
    LanguageServer,
    /// A development server.
    DevServer,
    /// Left behind by a `hostler run` whose front and keeper were killed.
    Survivor,
    /// Anything else that an agent's shell started.
    Work,
}

impl Kind {
    /// In words, for people.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::McpServer => "MCP server",
            Self::Browser => "headless browser",
            Self::BrowserPart => "part of a browser",
            Self::Multiplexer => "terminal multiplexer",
            Self::LanguageServer => "language server",
            Self::DevServer => "development server",
            Self::Survivor => "survivor of a hostler",
            Self::Work => "background work",
        }
    }

    /// Whether it lives by its standard input: once nobody can write there, it is of no use to anybody.
    pub(crate) fn lives_by_input(self) -> bool {
        matches!(self, Self::Agent | Self::McpServer | Self::LanguageServer)
    }

    /// Whether people start such programs too, and leave them running on purpose: then an agent's mark must be in the
    /// environment for it to be mentioned.
    pub(crate) fn needs_hint(self) -> bool {
        matches!(self, Self::DevServer | Self::Work)
    }
}

/// What must be among the arguments beside the name.
#[derive(Debug, Clone, Copy)]
pub(crate) enum With {
    /// Nothing.
    Nothing,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A word that begins so.
    Flag(&'static [&'static str]),
    /// One of these words, or an agent's mark in the environment.
    WordOrHint(&'static [&'static str]),
}

/// A row of the table.
#[derive(Debug)]
pub(crate) struct Known {
    /// What it is called in the list.
    pub label: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Names of the program, its script or its package; `*` stands for anything.
    pub names: &'static [&'static str],
    /// What else must be there.
    pub with: With,
}

const fn row(label: &'static str, kind: Kind, names: &'static [&'static str], with: With) -> Known {
    Known {
        label,
        kind,
        names,
        with,
    }
}

const ACP: With = With::Word(&["acp", "--acp", "--experimental-acp"]);

/// The table. The first row that fits counts.
pub(crate) const TABLE: &[Known] = &[
    row(
        "Claude Code adapter",
        Kind::Agent,
        &[
            "claude-agent-acp",
            "claude-code-acp",
            "@agentclientprotocol/claude-agent-acp",
            "@zed-industries/claude-agent-acp",
            "@zed-industries/claude-code-acp",
        ],
        With::Nothing,
    ),
    row(
        "Claude Code",
        Kind::Agent,
        &[
            "claude",
            "claude-code",
            "@anthropic-ai/claude-code",
            "claude-agent-sdk",
        ],
        // Driven by a program. One that was given its prompt with the command may be a job that someone left running.
        With::Word(&["--input-format", "--input-format=stream-json"]),
    ),
    row(
        "Codex adapter",
        Kind::Agent,
        &[
            "codex-acp",
            "codex-acp-*",
            "@agentclientprotocol/codex-acp",
            "@zed-industries/codex-acp",
        ],
        With::Nothing,
    ),
    row(
        "Codex",
        Kind::Agent,
        &["codex", "@openai/codex"],
        With::Word(&["app-server", "mcp-server", "proto"]),
    ),
    row(
        "Gemini CLI",
        Kind::Agent,
        &["gemini", "gemini-cli", "@google/gemini-cli"],
        ACP,
    ),
    row(
        "Qwen Code",
        Kind::Agent,
        &["qwen", "qwen-code", "@qwen-code/qwen-code"],
        ACP,
    ),
    row(
        "OpenCode",
        Kind::Agent,
        &["opencode", "opencode-*", "opencode-ai"],
        ACP,
    ),
    row("Goose", Kind::Agent, &["goose"], ACP),
    row(
        "Cursor agent",
        Kind::Agent,
        &["cursor-agent", "cursor-agent-acp"],
        With::Nothing,
    ),
    row("Kimi CLI", Kind::Agent, &["kimi", "kimi-cli"], ACP),
    row("Kiro CLI", Kind::Agent, &["kiro-cli", "kiro-cli-chat"], ACP),
    row(
        "Copilot CLI",
        Kind::Agent,
        &["copilot", "@github/copilot"],
        ACP,
    ),
    row(
        "Auggie",
        Kind::Agent,
        &["auggie", "@augmentcode/auggie"],
        ACP,
    ),
    row("Vibe", Kind::Agent, &["vibe-acp"], With::Nothing),
    row(
        "Fast Agent",
        Kind::Agent,
        &["fast-agent-acp"],
        With::Nothing,
    ),
    row(
        "MCP server",
        Kind::McpServer,
        &[
            "@modelcontextprotocol/*",
            "@playwright/mcp",
            "mcp-server-*",
            "mcp_server_*",
            "*-mcp-server",
            "*_mcp_server",
            "*-mcp",
            "*_mcp",
            "@*/mcp",
            "@*/mcp-*",
            "mcp-remote",
            "mcp-proxy",
        ],
        With::Nothing,
    ),
    row(
        "Crash handler",
        Kind::BrowserPart,
        &[
            "chrome_crashpad_handler",
            "chrome_crashpad",
            "crashpad_handler",
        ],
        With::Nothing,
    ),
    row(
        "Browser process",
        Kind::BrowserPart,
        &[
            "chrome",
            "chromium",
            "chromium-browser",
            "headless_shell",
            "chrome-headless-shell",
        ],
        With::Flag(&["--type="]),
    ),
    row(
        "Chromium",
        Kind::Browser,
        &[
            "chrome",
            "chromium",
            "chromium-browser",
            "google-chrome*",
            "msedge",
            "microsoft-edge*",
        ],
        With::Flag(&["--headless"]),
    ),
    row(
        "Chromium",
        Kind::Browser,
        &["headless_shell", "chrome-headless-shell"],
        With::Nothing,
    ),
    row(
        "Firefox",
        Kind::Browser,
        &["firefox", "firefox-bin", "firefox-esr", "camoufox*"],
        With::Flag(&["--headless", "-headless"]),
    ),
    row(
        "Playwright driver",
        Kind::BrowserPart,
        &["playwright", "playwright-core", "patchright"],
        With::Word(&["run-driver", "run-server", "launch-server"]),
    ),
    row(
        "Browser driver",
        Kind::BrowserPart,
        &["chromedriver", "geckodriver"],
        With::Nothing,
    ),
    // A server keeps the words of the command that started it: one that was started detached had no person before it.
    row(
        "tmux server",
        Kind::Multiplexer,
        &["tmux"],
        With::WordOrHint(&["-d"]),
    ),
    row(
        "screen server",
        Kind::Multiplexer,
        &["SCREEN", "screen"],
        With::WordOrHint(&["-d", "-dm", "-dmS", "-Dm", "-DmS"]),
    ),
    row(
        "Language server",
        Kind::LanguageServer,
        &[
            "typescript-language-server",
            "tsserver",
            "vtsls",
            "pyright-langserver",
            "basedpyright-langserver",
            "pylsp",
            "jedi-language-server",
            "rust-analyzer",
            "gopls",
            "clangd",
            "jdtls",
            "lua-language-server",
            "bash-language-server",
            "yaml-language-server",
            "vscode-*-language-server",
            "intelephense",
            "solargraph",
            "zls",
        ],
        With::Nothing,
    ),
    row(
        "Development server",
        Kind::DevServer,
        &[
            "vite",
            "next",
            "nuxt",
            "astro",
            "webpack",
            "webpack-dev-server",
            "react-scripts",
            "parcel",
            "nodemon",
            "http-server",
            "live-server",
            "uvicorn",
            "flask",
            "http.server",
        ],
        With::Nothing,
    ),
];

/// Variables that agents set for what they start. Some scrub them, and whatever is started from there inherits them: a
/// hint, no more.
pub(crate) const HINTS: &[&str] = &[
    "CLAUDECODE",
    "CODEX_SANDBOX",
    "CURSOR_AGENT",
    "GEMINI_CLI",
    "GOOSE_TERMINAL",
    "HOSTLER_SESSION",
    "OPENCODE",
    "QWEN_CODE",
];

/// First processes of a machine or a container that do nothing but that.
pub(crate) const INITS: &[&str] = &[
    "systemd",
    "init",
    "tini",
    "docker-init",
    "podman-init",
    "dumb-init",
    "catatonit",
    "busybox",
    "runit",
    "s6-svscan",
    "openrc-init",
];

/// Programs that take orphans in and own none of them, wherever they stand.
pub(crate) const REAPERS: &[&str] = &[
    "tini",
    "docker-init",
    "podman-init",
    "dumb-init",
    "catatonit",
    "conmon",
    "containerd-shim*",
];

/// Whether `name` is what `pattern` says; `*` stands for anything.
pub(crate) fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => name.strip_prefix(head).is_some_and(|rest| {
            // A star is for something: `-mcp` alone is no server's name.
            (1..=rest.len())
                .filter(|at| rest.is_char_boundary(*at))
                .any(|at| fits(tail, &rest[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_something() {
        assert!(fits("*-mcp", "github-mcp"));
        assert!(fits("@*/mcp-*", "@acme/mcp-files"));
        assert!(fits("codex-acp-*", "codex-acp-linux-x64"));
        for (pattern, name) in [
            ("*-mcp", "-mcp"),
            ("*-mcp", "x-mcp-notes.md"),
            ("claude", "claudette"),
            ("mcp-server-*", "mcp-server-"),
        ] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }
}
