/** Fields of a log line with values that need no serializer; undefined ones are left out. None of them is a secret. */
export type PlainFields = Readonly<Record<string, string | number | undefined>>;

/**
 * Writes log lines of plain fields in the form of pino. Every request has such a line, and pino takes several times as
 * long, because any value may need a serializer.
 */
export class PlainLines {
  /** The fields of every line, as JSON without braces. */
  private readonly base: string;
  private clockMs = 0;
  private clock = '';

  constructor(
    base: Readonly<Record<string, unknown>> | undefined,
    private readonly output: (line: string) => void,
  ) {
    const json = JSON.stringify(base ?? {});
    this.base = json === '{}' ? '' : `,${json.slice(1, -1)}`;
  }

  /** Level, message and the names of fields contain no characters that JSON escapes. */
  write(level: string, fields: PlainFields, message: string): void {
    let body = '';
    for (const name in fields) {
      const value = fields[name];
      if (value !== undefined) body += `,"${name}":${typeof value === 'string' ? quoted(value) : numeral(value)}`;
    }
    this.output(`{"level":"${level}","time":"${this.time()}"${this.base}${body},"msg":"${message}"}\n`);
  }

  /** Many lines of a busy process have the same time. */
  private time(): string {
    const now = new Date();
    if (now.getTime() !== this.clockMs) {
      this.clockMs = now.getTime();
      this.clock = now.toISOString();
    }
    return this.clock;
  }
}

/** Text that is its own form in JSON. */
const PLAIN_TEXT = /^[\x20\x21\x23-\x5b\x5d-\x7e]*$/;

function quoted(text: string): string {
  return PLAIN_TEXT.test(text) ? `"${text}"` : JSON.stringify(text);
}

function numeral(value: number): string {
  return Number.isFinite(value) ? `${value}` : 'null';
}
