const INTERIM = 'HTTP/1.1 1';
const STATUS_LINE_START = 'HTTP/1.1 100'.length;
const LAST_DIGIT = STATUS_LINE_START - 1;
/** Longer interim heads than this are left to the parser, which has its own limit. */
const LONGEST_HELD = 64 * 1024;

/**
 * Turns an unexpected `100 Continue` into a `102`, which has no more meaning for us. A client must be able to skip a 100 it
 * did not ask for (RFC 9110 §15.2) and some servers send one before every answer, but undici breaks the connection off.
 * Not needed once undici skips them.
 */
export class InterimResponses {
  private awaitingFinal = false;
  /** The begin of a head that is not whole yet. */
  private held: Buffer | undefined;

  /** A request is about to be written: the next bytes are the head of a response to it. */
  expectHead(): void {
    this.awaitingFinal = true;
    this.held = undefined;
  }

  /** What of these bytes, and of those held so far, may be parsed now. */
  pass(bytes: Buffer): Buffer {
    if (!this.awaitingFinal) return bytes;
    const all = this.held ? Buffer.concat([this.held, bytes]) : bytes;
    this.held = undefined;
    for (let at = 0; at < all.length;) {
      const start = all.toString('latin1', at, at + STATUS_LINE_START);
      const end = all.indexOf('\r\n\r\n', at);
      if (!couldBeInterim(start) || all.length - at > LONGEST_HELD) return this.finalHead(all);
      if (start.length < STATUS_LINE_START || end === -1) return this.hold(all, at);
      if (start === 'HTTP/1.1 100') all[at + LAST_DIGIT] = '2'.charCodeAt(0);
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

  private finalHead(all: Buffer): Buffer {
    this.awaitingFinal = false;
    return all;
  }

  private hold(all: Buffer, at: number): Buffer {
    this.held = all.subarray(at);
    return all.subarray(0, at);
  }
}

function couldBeInterim(start: string): boolean {
  return start.startsWith(INTERIM) || INTERIM.startsWith(start);
}
