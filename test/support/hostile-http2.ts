import type { Attack, AttackBuilder } from './hostile-messages.js';

const PREFACE = 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n';
const [DATA, HEADERS, PRIORITY, RESET, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION] = [
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9,
];
const END_STREAM = 0x1;
const END_HEADERS = 0x4;
const MOST = 0x7fffffff;

/** Asks for a sign of life: what came before it has been dealt with when it is answered. */
export const H2_PING = frame(PING, 0, 0, 'are-you?');

type Field = readonly [name: string, value: string];

/** Connections with prior knowledge of HTTP/2, and not much more. */
export const HTTP2_FAMILIES: readonly ((builder: AttackBuilder) => Attack)[] = [
  brokenFrames,
  brokenFields,
  oddFields,
  wrongLength,
];

function brokenFrames(builder: AttackBuilder): Attack {
  const noise = (size: number): string =>
    Array.from({ length: size }, () => String.fromCharCode(builder.below(256))).join('');
  const good = request(builder, 1, []);
  const frames = builder.of([
    () => noise(1 + builder.below(300)),
    () => frame(builder.below(14), builder.below(256), builder.below(4), noise(builder.below(60))),
    () => frame(HEADERS, END_HEADERS | END_STREAM, builder.of([0, 1, 2]), noise(40)),
    () => good + frame(HEADERS, END_HEADERS | END_STREAM, 1, noise(20)),
    () => frame(DATA, END_STREAM, builder.of([0, 1, 7]), 'abc'),
    () => '\xff\xff\xff\x00\x00\x00\x00\x00\x01abc',
    () => frame(SETTINGS, builder.of([0, 1]), 0, noise(builder.of([1, 5, 7]))),
    () => frame(SETTINGS, 0, 0, `\x00\x04${integer(0xffffffff)}`),
    () => frame(SETTINGS, 0, 0, `\x00\x05${integer(builder.of([0, 1, MOST]))}`),
    () => frame(SETTINGS, 0, 0, '').repeat(500),
    () => frame(PING, 0, 0, 'flooding').repeat(1000),
    () => frame(PING, 0, builder.of([0, 1]), 'short'),
    () => frame(WINDOW, 0, builder.of([0, 1]), integer(builder.of([0, MOST]))).repeat(2),
    () => good + frame(WINDOW, 0, 1, integer(MOST)),
    () => frame(PUSH, END_HEADERS, 1, integer(2)),
    () => frame(CONTINUATION, END_HEADERS, 1, ''),
    () => frame(HEADERS, 0, 1, block(fieldsOf(builder))) + frame(PING, 0, 0, 'between!'),
    () => frame(HEADERS, 0, 1, '') + frame(CONTINUATION, 0, 1, block([['x', 'y'.repeat(100)]])).repeat(300),
    () => frame(PRIORITY, 0, 1, integer(1) + '\x10') + frame(RESET, 0, 9, integer(8)) + frame(RESET, 0, 0, integer(8)),
    () => frame(GOAWAY, 0, 0, integer(MOST) + integer(builder.below(14)) + noise(50)),
    () =>
      Array.from(
        { length: 150 },
        (_, at) => request(builder, 2 * at + 1, []) + frame(RESET, 0, 2 * at + 1, integer(8)),
      ).join(''),
  ])();
  const preface = builder.happens(0.1)
    ? PREFACE.replace('SM', builder.of(['XX', 'sm', '\r\n']))
    : PREFACE + frame(SETTINGS, 0, 0, '');
  return {
    family: 'h2 frames',
    bytes: preface + frames,
    then: builder.of(['wait', 'end', 'reset']),
    verdict: 'anything',
  };
}

/** RFC 9113 §8.1.1: malformed requests; the origin must not hear of them. */
function brokenFields(builder: AttackBuilder): Attack {
  const good = fieldsOf(builder);
  const fields = builder.of<() => Field[]>([
    () => good.filter(([name]) => name !== ':path'),
    () => good.filter(([name]) => name !== ':method'),
    () => good.filter(([name]) => name !== ':scheme'),
    () => [...good.slice(0, 1), ...good],
    () => [[':path', '/files/twice'], ...good],
    () => [...good, [':path', '/files/late']],
    () => [[':status', '200'], ...good],
    () => [[':unknown', 'x'], ...good],
    () => replaced(good, ':path', builder.of(['', 'files', '*', '/a#b', '/a\r\nX-Smuggled: yes', '/a b HTTP/1.1'])),
    () => replaced(good, ':method', builder.of(['', 'GE T', 'GET\r\nX-Smuggled: yes', 'CONNECT'])),
    () => replaced(good, ':authority', builder.of(['a b', 'user@a', 'a\r\nX-Smuggled: yes', 'a/b'])),
    () => [...good, ['X-Upper', 'x']],
    () => [
      ...good,
      builder.of<Field>([
        ['connection', 'close'],
        ['transfer-encoding', 'chunked'],
        ['upgrade', 'h2c'],
        ['keep-alive', '1'],
      ]),
    ],
    () => [...good, ['host', 'other.example']],
    () => [...good, ['content-length', '-1']],
    () => [...good, ['content-length', '3'], ['content-length', '4']],
    () => [...good, ['expect', 'miracle']],
  ])();
  const bytes = PREFACE + frame(SETTINGS, 0, 0, '') + frame(HEADERS, END_HEADERS | END_STREAM, 1, block(fields));
  return { family: 'h2 broken fields', bytes, then: 'wait', verdict: 'refused' };
}

function oddFields(builder: AttackBuilder): Attack {
  const good = fieldsOf(builder);
  const fields = builder.of<() => Field[]>([
    () => [...good, ...Array.from({ length: 300 }, (): Field => ['cookie', 'crumb=1'])],
    () => [...good, ...Array.from({ length: 2000 }, (_, at): Field => [`x-${at}`, 'y'.repeat(100)])],
    () => [...good, ['te', 'trailers']],
    // Node's HTTP/2 leaves such fields out and says nothing of them: they must not come back to life behind us.
    () => [...good, ['x-a', 'b\r\nX-Smuggled: yes']],
    () => [...good, ['x-a\r\nx-smuggled', 'yes']],
    () => [...good, ['x-nul', 'a\x00b']],
    () => [...good, ['', 'nameless']],
    () => [...good, ['upload-complete', '?1'], ['upload-draft-interop-version', '6']],
    () =>
      replaced(
        good,
        ':path',
        builder.of(['/..//../etc', '/.uploads/%2e%2e%2f', '/%00', '//x', `${builder.victim.target}/..`]),
      ),
    () => replaced(good, ':method', builder.of(['HEAD', 'DELETE', 'OPTIONS', 'TRACE', 'BREW'])),
    () => [...good, ['priority', 'u=99, i=?9'], ['forwarded', 'for="']],
  ])();
  const whole = block(fields);
  const pieces = whole.match(/[^]{1,16000}/g) ?? [''];
  const frames = pieces.map((piece, at) => {
    const ends = at === pieces.length - 1 ? END_HEADERS : 0;
    return at === 0 ? frame(HEADERS, ends | END_STREAM, 1, piece) : frame(CONTINUATION, ends, 1, piece);
  });
  return {
    family: 'h2 odd fields',
    bytes: PREFACE + frame(SETTINGS, 0, 0, '') + frames.join(''),
    then: 'wait',
    verdict: 'anything',
  };
}

/** RFC 9113 §8.1.1: a body of another length than announced is none that could be whole. */
function wrongLength(builder: AttackBuilder): Attack {
  const [announced, sent] = builder.of([
    [3, 'abcd'],
    [5, 'abcd'],
    [0, 'a'],
    [100_000, ''],
  ] as const);
  const upload: Field[] = [
    ['upload-complete', '?1'],
    ['upload-draft-interop-version', '6'],
  ];
  const extra: Field[] = [...(builder.happens(0.5) ? upload : []), ['content-length', `${announced}`]];
  const fields = [...replaced(fieldsOf(builder), ':method', 'POST'), ...extra];
  const frames = frame(HEADERS, END_HEADERS, 1, block(fields)) + frame(DATA, END_STREAM, 1, sent);
  return {
    family: 'h2 wrong length',
    bytes: PREFACE + frame(SETTINGS, 0, 0, '') + frames,
    then: 'wait',
    verdict: 'anything',
    isCut: true,
  };
}

function fieldsOf(builder: AttackBuilder): Field[] {
  const { victim, marker } = builder;
  return [
    [':method', 'GET'],
    [':scheme', 'http'],
    [':authority', victim.host],
    [':path', '/files/h2'],
    ['x-marker', marker],
  ];
}

function replaced(fields: readonly Field[], name: string, value: string): Field[] {
  return fields.map((field) => (field[0] === name ? [name, value] : field));
}

function request(builder: AttackBuilder, stream: number, extra: readonly Field[]): string {
  return frame(HEADERS, END_HEADERS | END_STREAM, stream, block([...fieldsOf(builder), ...extra]));
}

export function frame(type: number, flags: number, stream: number, payload: string): string {
  return integer(payload.length).slice(1) + String.fromCharCode(type, flags) + integer(stream) + payload;
}

/** RFC 7541 §6.2.2: literal fields without indexing, strings as they are. */
export function block(fields: readonly Field[]): string {
  return fields.map(([name, value]) => `\x00${text(name)}${text(value)}`).join('');
}

function text(value: string): string {
  if (value.length > 126) throw new Error('longer than one byte can say');
  return String.fromCharCode(value.length) + value;
}

function integer(value: number): string {
  return String.fromCharCode(value >>> 24, (value >>> 16) & 0xff, (value >>> 8) & 0xff, value & 0xff);
}
