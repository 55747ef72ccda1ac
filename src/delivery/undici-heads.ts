/** The status that stands in the place of 100. */
export const OTHER_INTERIM = 199;

const INTERIM = 'HTTP/1.1 1';
const STATUS_LINE_START = 'HTTP/1.1 100'.length;
/** Longer interim heads than this are left to the parser, which has its own limit. */
const LONGEST_HELD = 64 * 1024;
/** More of a status line is not looked at. */
const LONGEST_STATUS_LINE = 8 * 1024;

/**
 * Looks at the heads of responses before undici does, which has two faults there; not needed once it has neither.
 * It breaks the connection off at a `100 Continue` that nobody asked for, although a client must be able to skip one
 * (RFC 9110 §15.2): such a 100 becomes `OTHER_INTERIM`, which means nothing to anybody. And it decodes the reason phrase as
 * UTF-8 and forgets what came of it in an earlier packet: its octets are noted here.
 */
export class ResponseHeads {
  private awaitingFinal = false;
  /** The begin of a head that is not whole yet. */
  private held: Buffer | undefined;
  /** The begin of the final head, up to the end of its first line. */
  private statusLine = '';
  private awaitingStatusLine = false;

  /** A request is about to be written: the next bytes are the head of a response to it. */
  expectHead(): void {
    this.awaitingFinal = true;
    this.held = undefined;
    this.statusLine = '';
    this.awaitingStatusLine = false;
  }

  /** The reason phrase of the final response, one code unit an octet; undefined when its status line was not seen whole. */
  reasonOf(status: number): string | undefined {
    const [, code, reason = ''] = /^HTTP\/\d\.\d (\d{3})(?: ([^\r\n]*))?\r?\n/.exec(this.statusLine) ?? [];
    return Number(code) === status ? reason : undefined;
  }

  /** What of these bytes, and of those held so far, may be parsed now. */
  pass(bytes: Buffer): Buffer {
    if (this.awaitingStatusLine) this.noteStatusLine(bytes);
    if (!this.awaitingFinal) return bytes;
    const all = this.held ? Buffer.concat([this.held, bytes]) : bytes;
    this.held = undefined;
    for (let at = 0; at < all.length;) {
      const start = all.toString('latin1', at, at + STATUS_LINE_START);
      const end = all.indexOf('\r\n\r\n', at);
      if (!couldBeInterim(start) || all.length - at > LONGEST_HELD) return this.finalHead(all, at);
      if (start.length < STATUS_LINE_START || end === -1) return this.hold(all, at);
      if (start === 'HTTP/1.1 100') all.write(`${OTHER_INTERIM}`, at + STATUS_LINE_START - 3, 'latin1');
      at = end + 4;
    }
    return all;
  }

  /** What is still held when the connection ends. */
  rest(): Buffer | undefined {
    const { held } = this;
    this.held = undefined;
    return held;
  }

  private finalHead(all: Buffer, at: number): Buffer {
    this.awaitingFinal = false;
    this.noteStatusLine(all.subarray(at));
    return all;
  }

  private noteStatusLine(bytes: Buffer): void {
    this.statusLine += bytes.toString('latin1', 0, LONGEST_STATUS_LINE);
    this.awaitingStatusLine = !this.statusLine.includes('\n') && this.statusLine.length < LONGEST_STATUS_LINE;
  }

  private hold(all: Buffer, at: number): Buffer {
    this.held = all.subarray(at);
    return all.subarray(0, at);
  }
}

function couldBeInterim(start: string): boolean {
  return start.startsWith(INTERIM) || INTERIM.startsWith(start);
}
