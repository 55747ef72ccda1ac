// The Redis serialization protocol (RESP2), as far as watching it needs.

const CRLF = '\r\n';

/** Where the value that begins at `from` ends; undefined while it is not all there. */
function endOfValue(bytes: Buffer, from: number): number | undefined {
  const lineEnd = bytes.indexOf(CRLF, from, 'latin1');
  if (lineEnd < 0) return undefined;
  const after = lineEnd + CRLF.length;
  const count = Number(bytes.toString('latin1', from + 1, lineEnd));
  switch (String.fromCharCode(bytes[from]!)) {
    case '$':
      return within(bytes, count < 0 ? after : after + count + CRLF.length);
    case '*':
      return endOfItems(bytes, after, count);
    default:
      return after;
  }
}

/** The words of a command: an array of bulk strings. */
export function wordsOf(command: Buffer): string[] {
  const words: string[] = [];
  let at = command.indexOf(CRLF, 0, 'latin1') + CRLF.length;
  while (at < command.length) {
    const start = command.indexOf(CRLF, at, 'latin1') + CRLF.length;
    const end = start + Number(command.toString('latin1', at + 1, start - CRLF.length));
    words.push(command.toString('latin1', start, end));
    at = end + CRLF.length;
  }
  return words;
}

/** Gives every whole value that came, however the bytes were cut. */
export class ValueReader {
  private rest = Buffer.alloc(0);

  constructor(private readonly onValue: (value: Buffer) => void) {}

  read(bytes: Buffer): void {
    const all = this.rest.length > 0 ? Buffer.concat([this.rest, bytes]) : bytes;
    let from = 0;
    for (let end = endOfValue(all, from); end !== undefined; end = endOfValue(all, from)) {
      this.onValue(all.subarray(from, end));
      from = end;
    }
    this.rest = Buffer.from(all.subarray(from));
  }
}

function endOfItems(bytes: Buffer, from: number, count: number): number | undefined {
  let at: number | undefined = from;
  for (let item = 0; item < count && at !== undefined; item++) at = endOfValue(bytes, at);
  return at;
}

function within(bytes: Buffer, end: number): number | undefined {
  return end <= bytes.length ? end : undefined;
}
