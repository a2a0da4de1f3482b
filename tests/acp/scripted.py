"""An agent that does what its prompt says, in as few lines as the protocol lets it: for what no well-behaved one can be made to do.

Prompts: `elicit`, `permission`, `say TEXT`. Requests: session/set_mode, session/set_config_option, authenticate (`good` is taken, and
remembered in SCRIPTED_LOGIN where that is named), `_slow` (answered when it is taken back), `_deaf` (never). What it was told stands in its answers."""

import json
import os
import sys

login = os.environ.get('SCRIPTED_LOGIN')
logged_in = not login or os.path.exists(login)
slow, asked, told = {}, {}, {}


def send(**message):
    sys.stdout.write(json.dumps({'jsonrpc': '2.0', **message}) + '\n')
    sys.stdout.flush()


def update(session, **update):
    send(method='session/update', params={'sessionId': session, 'update': update})


def say(session, text):
    update(session, sessionUpdate='agent_message_chunk', content={'type': 'text', 'text': text})


def ask(turn, session, method, **params):
    asked[f'q{turn}'] = (turn, session)
    send(id=f'q{turn}', method=method, params={'sessionId': session, **params})


def option(value):
    return [{'id': 'model', 'name': 'Model', 'type': 'select', 'currentValue': value,
             'options': [{'value': name, 'name': name} for name in ('small', 'large')]}]


def prompt(turn, session, text):
    verb, _, rest = text.partition(' ')
    if verb == 'elicit':
        ask(turn, session, 'elicitation/create', mode='form', message='Which?', requestedSchema={
            'type': 'object', 'properties': {'which': {'type': 'string'}}})
    elif verb == 'permission':
        ask(turn, session, 'session/request_permission',
            toolCall={'toolCallId': 'c', 'title': 'remove the lighthouse'},
            options=[{'optionId': 'go', 'name': 'Do', 'kind': 'allow_once'},
                     {'optionId': 'stay', 'name': 'Do not', 'kind': 'reject_once'}])
    else:
        say(session, rest)
        send(id=turn, result={'stopReason': 'end_turn'})


def request(id, method, params):
    global logged_in
    session = params.get('sessionId')
    if method == 'initialize':
        told['capabilities'] = params.get('clientCapabilities')
        send(id=id, result={'protocolVersion': 1, 'agentCapabilities': {},
                            'authMethods': [{'id': 'good', 'name': 'Good'}, {'id': 'bad', 'name': 'Bad'}]})
    elif method == 'authenticate':
        if params.get('methodId') == 'good':
            logged_in = True
            if login:
                open(login, 'w').close()
            send(id=id, result={'_meta': {'told': params}})
        else:
            send(id=id, error={'code': -32000, 'message': 'that is not the word', 'data': {'told': params}})
    elif method == 'session/new' and not logged_in:
        send(id=id, error={'code': -32000, 'message': 'Authentication required'})
    elif method == 'session/new':
        modes = {'currentModeId': 'ask', 'availableModes': [{'id': name, 'name': name} for name in ('ask', 'code')]}
        send(id=id, result={'sessionId': 'its-own', 'modes': modes, 'configOptions': option('small'), '_meta': told})
    elif method == 'session/set_mode':
        update(session, sessionUpdate='current_mode_update', currentModeId=params['modeId'])
        send(id=id, result={'_meta': {'told': params}})
    elif method == 'session/set_config_option':
        update(session, sessionUpdate='config_option_update', configOptions=option(params['value']))
        send(id=id, result={'configOptions': option(params['value'])})
    elif method == 'session/prompt':
        prompt(id, session, params['prompt'][-1]['text'])
    elif method == '_slow':
        slow[id] = session
        say(session, 'it is slow')
    elif method == '_deaf':
        say(session, 'it is deaf')
    else:
        send(id=id, error={'code': -32601, 'message': 'method not found'})


for line in sys.stdin:
    message = json.loads(line)
    if 'method' not in message:
        turn, session = asked.pop(message['id'])
        say(session, json.dumps(message.get('result', message.get('error'))))
        send(id=turn, result={'stopReason': 'end_turn'})
    elif 'id' in message:
        request(message['id'], message['method'], message.get('params') or {})
    elif message['method'] == '$/cancel_request':
        which = message['params']['requestId']
        if which in slow:
            say(slow.pop(which), 'it was taken back')
            send(id=which, error={'code': -32800, 'message': 'stopped by the agent itself'})
    elif message['method'] == 'session/cancel':
        for turn, _ in asked.values():
            send(id=turn, result={'stopReason': 'cancelled'})
        asked.clear()
