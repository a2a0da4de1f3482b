#!/usr/bin/env python3
"""The tests' stand-in for the model services that real agents call: no network, no credentials, answers by script.
Real agents (Claude Code, OpenCode, Codex) run against it as against the services. Speaks, on one port:
  Anthropic  POST /v1/messages (stream or not), /v1/messages/count_tokens
  OpenAI     POST /v1/chat/completions, /v1/responses (stream or not), GET /v1/models
  Gemini     POST /v1beta/models/M:streamGenerateContent | :generateContent | :countTokens
Script by the LAST user text of the request:
  "BASH: <cmd>"   -> first answer is one shell tool call, next answer is text "done"
  "SLOW <n>"      -> n chunks at 1/s (for cancel / mid-prompt kill tests)
  otherwise       -> text "pong: <text>"
Usage: model-stub.py PORT [LOGFILE]   (loopback only; ends when its standard input does)"""
import json, os, sys, time, re, uuid, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
PORT = int(sys.argv[1]); LOG = open(sys.argv[2] if len(sys.argv) > 2 else 'model-stub.log', 'a', buffering=1)

def log(*a): LOG.write(time.strftime('%H:%M:%S ') + ' '.join(str(x) for x in a) + '\n')

def strip(t):
    t = re.sub(r'<system-reminder>.*?</system-reminder>', '', t, flags=re.S)
    return re.sub(r'<[a-z_]+>.*?</[a-z_]+>', '', t, flags=re.S).strip()

def plan_from(text, after_tool):
    m = re.search(r'BASH:\s*(.+)', text)
    if m and not after_tool: return ('tool', m.group(1).strip().strip('"'))
    m = re.search(r'SLOW\s+(\d+)', text)
    if m and not after_tool: return ('slow', int(m.group(1)))
    return ('text', 'done' if after_tool else 'pong: ' + text[-200:])

def pick_tool(names):
    for n in ('Bash', 'run_shell_command', 'exec_command', 'shell_command', 'shell', 'bash', 'developer__shell', 'local_shell'):
        if n in names: return n
    return None

def tool_args(name, cmd):
    if name in ('Bash', 'bash'): return {'command': cmd, 'description': 'run it'}
    if name == 'exec_command': return {'cmd': cmd}

    return {'command': cmd}

class H(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *a): pass
    def j(self, obj, code=200, hdr=()):
        b = json.dumps(obj).encode()
        self.send_response(code); self.send_header('content-type', 'application/json'); self.send_header('content-length', str(len(b)))
        for k, v in hdr: self.send_header(k, v)
        self.end_headers(); self.wfile.write(b)
    def sse_start(self):
        self.send_response(200); self.send_header('content-type', 'text/event-stream'); self.send_header('cache-control', 'no-cache')
        self.send_header('transfer-encoding', 'chunked'); self.end_headers()
    def raw(self, s):
        b = s.encode(); self.wfile.write(b'%x\r\n%s\r\n' % (len(b), b)); self.wfile.flush()
    def ev(self, obj, name=None):
        self.raw((f'event: {name}\n' if name else '') + 'data: ' + json.dumps(obj) + '\n\n')
    def sse_end(self): self.wfile.write(b'0\r\n\r\n'); self.wfile.flush()
    def chunks(self, plan):
        if plan[0] == 'slow':
            for i in range(plan[1]): yield f'tick {i} '; time.sleep(1)
        else: yield plan[1]
    def do_HEAD(self):
        log('HEAD', self.path); self.send_response(200); self.send_header('content-length', '0'); self.end_headers()
    def do_GET(self):
        log('GET', self.path)
        if self.path.split('?')[0].endswith('/models'):
            return self.j({'object': 'list', 'data': [{'id': 'fake-model', 'object': 'model', 'created': 0, 'owned_by': 'fake'}], 'models': []})
        self.j({}, 200 if 'api' in self.path else 404)
    def do_POST(self):
        n = int(self.headers.get('content-length') or 0)
        if (self.headers.get('transfer-encoding') or '').lower() == 'chunked':
            body = b''
            while True:
                l = int(self.rfile.readline().strip() or b'0', 16)
                if l == 0: self.rfile.readline(); break
                body += self.rfile.read(l); self.rfile.readline()
        else: body = self.rfile.read(n)
        enc = self.headers.get('content-encoding')
        if enc == 'gzip':
            import gzip; body = gzip.decompress(body)
        try: q = json.loads(body or b'{}')
        except Exception: q = {}
        p = self.path.split('?')[0]
        try: self.route(p, q)
        except (BrokenPipeError, ConnectionResetError): log('CLIENT-GONE', p)
    def route(self, p, q):
        if p.endswith('/v1/messages/count_tokens') or p.endswith('/count_tokens'): return self.j({'input_tokens': 10})
        if p.endswith('/messages'): return self.anthropic(q)
        if p.endswith('/chat/completions'): return self.chat(q)
        if p.endswith('/responses'): return self.oai_responses(q)
        if 'enerateContent' in p or p.endswith(':countTokens'): return self.gemini(p, q)
        log('POST?', p, json.dumps(q)[:200]); self.j({}, 200)
    # --- Anthropic
    def anthropic(self, q):
        ms = q.get('messages', []); names = [t.get('name') for t in q.get('tools', []) or []]
        text, after = '', False
        for m in ms:
            if m['role'] != 'user': continue
            c = m['content'] if isinstance(m['content'], list) else [{'type': 'text', 'text': m['content']}]
            tr = any(x.get('type') == 'tool_result' for x in c)
            t = strip('\n'.join(x.get('text', '') for x in c if x.get('type') == 'text'))
            if tr: after = True
            elif t: text, after = t, False
        plan = plan_from(text, after)
        tool = pick_tool(names)
        if plan[0] == 'tool' and not tool: plan = ('text', 'no shell tool')
        log('ANTHROPIC', q.get('model'), 'stream' if q.get('stream') else 'json', 'tools', len(names), plan)
        mid = 'msg_' + uuid.uuid4().hex[:20]; usage = {'input_tokens': 10, 'output_tokens': 5, 'cache_creation_input_tokens': 0, 'cache_read_input_tokens': 0}
        base = {'id': mid, 'type': 'message', 'role': 'assistant', 'model': q.get('model', 'fake'), 'content': [], 'stop_reason': None, 'stop_sequence': None, 'usage': usage}
        if not q.get('stream'):
            base['content'] = [{'type': 'text', 'text': ''.join(self.chunks(plan)) if plan[0] != 'tool' else 'x'}]; base['stop_reason'] = 'end_turn'
            return self.j(base)
        self.sse_start(); E = lambda t, **k: self.ev({'type': t, **k}, t)
        E('message_start', message=base)
        if plan[0] == 'tool':
            E('content_block_start', index=0, content_block={'type': 'tool_use', 'id': 'toolu_' + uuid.uuid4().hex[:20], 'name': tool, 'input': {}})
            E('content_block_delta', index=0, delta={'type': 'input_json_delta', 'partial_json': json.dumps(tool_args(tool, plan[1]))}); sr = 'tool_use'
        else:
            E('content_block_start', index=0, content_block={'type': 'text', 'text': ''}); sr = 'end_turn'
            for c in self.chunks(plan): E('content_block_delta', index=0, delta={'type': 'text_delta', 'text': c})
        E('content_block_stop', index=0); E('message_delta', delta={'stop_reason': sr, 'stop_sequence': None}, usage=usage); E('message_stop'); self.sse_end()
    # --- OpenAI chat
    def chat(self, q):
        names = [t.get('function', {}).get('name') for t in q.get('tools', []) or []]
        text, after = '', False
        for m in q.get('messages', []):
            if m['role'] == 'tool': after = True
            elif m['role'] == 'user':
                c = m['content']; c = c if isinstance(c, str) else '\n'.join(x.get('text', '') for x in c if isinstance(x, dict))
                if strip(c): text, after = strip(c), False
        plan = plan_from(text, after); tool = pick_tool(names)
        if plan[0] == 'tool' and not tool: plan = ('text', 'no shell tool')
        log('CHAT', q.get('model'), 'stream' if q.get('stream') else 'json', 'tools', len(names), plan)
        base = {'id': 'c1', 'created': int(time.time()), 'model': q.get('model', 'fake')}; usage = {'prompt_tokens': 10, 'completion_tokens': 5, 'total_tokens': 15}
        tc = [{'index': 0, 'id': 'call_' + uuid.uuid4().hex[:8], 'type': 'function', 'function': {'name': tool, 'arguments': json.dumps(tool_args(tool, plan[1])) if plan[0] == 'tool' else ''}}]
        if not q.get('stream'):
            msg = {'role': 'assistant', 'content': None, 'tool_calls': tc} if plan[0] == 'tool' else {'role': 'assistant', 'content': ''.join(self.chunks(plan))}
            return self.j({**base, 'object': 'chat.completion', 'choices': [{'index': 0, 'message': msg, 'finish_reason': 'tool_calls' if plan[0] == 'tool' else 'stop'}], 'usage': usage})
        self.sse_start(); D = lambda d, f=None, **k: self.ev({**base, 'object': 'chat.completion.chunk', 'choices': [{'index': 0, 'delta': d, 'finish_reason': f}], **k})
        if plan[0] == 'tool': D({'role': 'assistant', 'tool_calls': tc}); D({}, 'tool_calls', usage=usage)
        else:
            D({'role': 'assistant', 'content': ''})
            for c in self.chunks(plan): D({'content': c})
            D({}, 'stop', usage=usage)
        self.raw('data: [DONE]\n\n'); self.sse_end()
    # --- OpenAI responses
    def oai_responses(self, q):
        names = [t.get('name') or t.get('type') for t in q.get('tools', []) or []]
        text, after = '', False; inp = q.get('input', [])
        if isinstance(inp, str): inp = [{'type': 'message', 'role': 'user', 'content': inp}]
        for m in inp:
            if m.get('type', '').endswith('_output'): after = True; log('TOOL-OUT', str(m.get('output'))[:300])
            elif m.get('role') == 'user':
                c = m['content']; c = c if isinstance(c, str) else '\n'.join(x.get('text', '') for x in c)
                if strip(c): text, after = strip(c), False
        plan = plan_from(text, after); tool = pick_tool(names)
        if plan[0] == 'tool' and not tool: plan = ('text', 'no shell tool in ' + ','.join(map(str, names)))
        log('RESPONSES', q.get('model'), 'stream' if q.get('stream') else 'json', 'tools', names, plan)
        rid = 'resp_' + uuid.uuid4().hex[:12]; usage = {'input_tokens': 10, 'input_tokens_details': {'cached_tokens': 0}, 'output_tokens': 5, 'output_tokens_details': {'reasoning_tokens': 0}, 'total_tokens': 15}
        R = {'id': rid, 'object': 'response', 'created_at': int(time.time()), 'status': 'in_progress', 'model': q.get('model', 'fake'), 'output': []}
        if plan[0] == 'tool': item = {'type': 'function_call', 'id': 'fc_1', 'call_id': 'call_' + uuid.uuid4().hex[:8], 'name': tool, 'arguments': json.dumps(tool_args(tool, plan[1])), 'status': 'completed'}
        else: item = {'type': 'message', 'id': 'msg_1', 'role': 'assistant', 'status': 'completed', 'content': []}
        if not q.get('stream'):
            if plan[0] != 'tool': item['content'] = [{'type': 'output_text', 'text': ''.join(self.chunks(plan)), 'annotations': []}]
            return self.j({**R, 'status': 'completed', 'output': [item], 'usage': usage})
        self.sse_start(); E = lambda t, **k: self.ev({'type': t, **k}, t)
        E('response.created', response=R); E('response.output_item.added', output_index=0, item={**item, 'status': 'in_progress'})
        if plan[0] != 'tool':
            full = ''
            E('response.content_part.added', item_id='msg_1', output_index=0, content_index=0, part={'type': 'output_text', 'text': '', 'annotations': []})
            for c in self.chunks(plan): full += c; E('response.output_text.delta', item_id='msg_1', output_index=0, content_index=0, delta=c)
            item['content'] = [{'type': 'output_text', 'text': full, 'annotations': []}]
        E('response.output_item.done', output_index=0, item=item); E('response.completed', response={**R, 'status': 'completed', 'output': [item], 'usage': usage}); self.sse_end()
    # --- Gemini
    def gemini(self, p, q):
        if p.endswith(':countTokens'): return self.j({'totalTokens': 10})
        names = [f.get('name') for t in q.get('tools', []) or [] for f in t.get('functionDeclarations', [])]
        text, after = '', False
        for m in q.get('contents', []):
            if m.get('role') != 'user': continue
            if any('functionResponse' in x for x in m['parts']): after = True
            else:
                t = strip('\n'.join(x.get('text', '') for x in m['parts']))
                if t: text, after = t, False
        plan = plan_from(text, after); tool = pick_tool(names)
        if plan[0] == 'tool' and not tool: plan = ('text', 'no shell tool')
        log('GEMINI', p, 'tools', len(names), plan)
        wrap = lambda parts, fin: {'candidates': [{'content': {'role': 'model', 'parts': parts}, 'index': 0, **({'finishReason': 'STOP'} if fin else {})}], 'usageMetadata': {'promptTokenCount': 10, 'candidatesTokenCount': 5, 'totalTokenCount': 15}, 'modelVersion': 'fake'}
        parts = [{'functionCall': {'name': tool, 'args': tool_args(tool, plan[1])}}] if plan[0] == 'tool' else None
        if 'streamGenerate' not in p:
            # json-mode helper calls (next speaker, routing...) get a harmless JSON object
            if (q.get('generationConfig') or {}).get('responseMimeType') == 'application/json' or (q.get('generationConfig') or {}).get('responseJsonSchema'):
                return self.j(wrap([{'text': json.dumps({'reasoning': 'x', 'next_speaker': 'user', 'model_choice': 'flash', 'complexity_reasoning': 'x', 'complexity_score': 1})}], True))
            return self.j(wrap(parts or [{'text': ''.join(self.chunks(plan))}], True))
        self.sse_start()
        if parts: self.ev(wrap(parts, True))
        else:
            for c in self.chunks(plan): self.ev(wrap([{'text': c}], False))
            self.ev(wrap([{'text': ''}], True))
        self.sse_end()
def end_with_parent():
    sys.stdin.buffer.read()
    os._exit(0)
ThreadingHTTPServer.daemon_threads = True
threading.Thread(target=end_with_parent, daemon=True).start()
ThreadingHTTPServer(('127.0.0.1', PORT), H).serve_forever()
