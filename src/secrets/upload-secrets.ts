import type { HeaderLine, Headers } from '../model/headers.js';
import type { Answer, Upload, Withheld } from '../model/upload.js';
import { tokenInId } from '../model/upload-id.js';
import { keyIdOf, type KeyRing } from './key-ring.js';

export interface UploadSecretsOptions {
  readonly ring: KeyRing;
  /** Lower-case names of the fields whose values are secrets, besides the credentials of a route. */
  readonly fields: readonly string[];
  /** False: the values are not stored, and a delivery needs those of the completing request. */
  readonly keep: boolean;
  /** Path prefix of upload resources: the value of a field with the URL of an upload has the upload's token. */
  readonly uploadsPath: string;
}

type Secretive = Pick<Upload, 'id' | 'request' | 'addedHeaders' | 'withheld'>;

/** The content of a sealed text. A value that is not kept is null. */
interface SealedContent {
  readonly values: readonly (string | null)[];
  readonly token?: string;
}

/** The fields of a record that have its secrets. */
type ResealedFields = Partial<Pick<Upload, 'request' | 'addedHeaders' | 'withheld' | 'answer' | 'undelivered'>>;

/** An upload with the values that were withheld from its record. */
export interface Revealed<U> {
  readonly upload: U;
  /** Names of the request's fields without a value: it was not kept, or no key opens it. */
  readonly missing: readonly string[];
  /** The same of the fields that the authorization service added. */
  readonly missingAdded: readonly string[];
}

/**
 * Keeps secrets out of records: takes the values of fields with credentials or upload URLs out of a creation, and puts
 * them back for a delivery or a client. All of one record are in one sealed text.
 * Reasons: docs/decisions/0038.
 */
export class UploadSecrets {
  private readonly fields: ReadonlySet<string>;
  private readonly uploadUrl: RegExp;
  /** The last segment of the path: a value without it is no URL of an upload, which is known faster this way. */
  private readonly lastSegment: string;

  constructor(private readonly options: UploadSecretsOptions) {
    this.fields = new Set(options.fields);
    const path = options.uploadsPath.replace(/[^\w/-]/g, '\\$&').replaceAll('/', SLASH);
    this.lastSegment = options.uploadsPath.split('/').findLast((segment) => segment !== '') ?? '';
    this.uploadUrl = new RegExp(`${path}[A-Za-z0-9_-]{32}`);
  }

  /** Whether values are stored, sealed. */
  get areKept(): boolean {
    return this.options.keep;
  }

  /** The lines of a request whose values a record does not have in clear. */
  linesIn(headers: Headers, credentials: readonly string[] = []): Headers {
    return headers.filter((line) => this.isSecret(line, credentials));
  }

  /**
   * The creation as it is stored. `credentials`: lower-case names of further fields with secrets. `token`: kept for a
   * client that repeats the creation.
   */
  withhold<C extends Secretive>(creation: C, credentials: readonly string[] = [], token?: string): C {
    const { request, addedHeaders = [] } = creation;
    const lines = this.secretIndexes(request.headers, credentials);
    const added = this.secretIndexes(addedHeaders, credentials);
    if (lines.length + added.length === 0 && token === undefined) return creation;
    const secretLines = [...lines.map((at) => request.headers[at]!), ...added.map((at) => addedHeaders[at]!)];
    // The URLs of parts are for this proxy, and not credentials: they are kept in any case.
    const values = secretLines.map(([, value]) => (this.options.keep || this.hasUploadUrl(value) ? value : null));
    const stored = {
      ...creation,
      request: { ...request, headers: withoutValues(request.headers, lines) },
      ...(added.length > 0 && { addedHeaders: withoutValues(addedHeaders, added) }),
    };
    const withheld = { lines, added };
    if (token === undefined && values.every((value) => value === null)) return { ...stored, withheld };
    const content: SealedContent = { values, ...(token !== undefined && { token }) };
    const sealed = this.options.ring.seal(JSON.stringify(content), contextOf({ ...stored, withheld }));
    return { ...stored, withheld: { ...withheld, sealed } };
  }

  /** The upload with all its values. `fresh`: the secret lines of a request, used for values that cannot be had. */
  reveal<U extends Secretive>(upload: U, fresh: Headers = []): Revealed<U> {
    const { withheld, request, addedHeaders = [] } = upload;
    if (!withheld) return { upload, missing: [], missingAdded: [] };
    const { lines, added } = withheld;
    const values = this.open(upload)?.values ?? [];
    const own = withValues(request.headers, lines, values, fresh);
    const others = withValues(addedHeaders, added, values.slice(lines.length), []);
    return {
      upload: {
        ...upload,
        request: { ...request, headers: own.headers },
        ...(added.length > 0 && { addedHeaders: others.headers }),
      },
      missing: own.missing,
      missingAdded: others.missing,
    };
  }

  /** The token that the creation of this upload got, kept for a client that repeats it; undefined if it cannot be had. */
  tokenOf(upload: Secretive): string | undefined {
    return tokenInId(upload.id) ?? this.open(upload)?.token;
  }

  /** The answer as it is stored: without the values of its `Set-Cookie` lines. */
  withholdAnswer(id: string, answer: Answer): Answer {
    const lines = answer.headers.flatMap(([name], at) => (name.toLowerCase() === 'set-cookie' ? [at] : []));
    // Without a key the answer is kept as it is: it cannot be had again.
    if (lines.length === 0 || !this.options.ring.canSeal) return answer;
    const values = lines.map((at) => answer.headers[at]![1]);
    const sealed = this.options.ring.seal(JSON.stringify({ values }), answerContext(id, lines));
    return { ...answer, headers: withoutValues(answer.headers, lines), withheld: { lines, sealed } };
  }

  /** The answer with all its values; lines whose values no key opens are left out. */
  revealAnswer(id: string, answer: Answer): Answer {
    const { withheld, headers } = answer;
    if (!withheld) return answer;
    const { lines, sealed } = withheld;
    const values = this.parse(this.options.ring.open(sealed, answerContext(id, lines)))?.values ?? [];
    return { ...answer, headers: withValues(headers, lines, values, []).headers };
  }

  /**
   * The fields of a record with their secrets sealed by the current key; undefined if they are already, or cannot be.
   * Secrets that an earlier version has stored in clear are sealed too.
   */
  reseal(upload: Upload, credentials?: readonly string[]): ResealedFields | undefined {
    const { id, answer, undelivered } = upload;
    const own = this.resealRequest(upload, credentials);
    const kept = answer && this.resealAnswer(id, answer);
    const parked = undelivered?.answer && this.resealAnswer(id, undelivered.answer);
    if (!own && !kept && !parked) return undefined;
    return {
      ...own,
      ...(kept && { answer: kept }),
      ...(undelivered && parked && { undelivered: { ...undelivered, answer: parked } }),
    };
  }

  /** Whether some value of the record is sealed with a key that is not the current one, and that opens it. */
  needsOlderKey(upload: Upload): boolean {
    return this.sealedTexts(upload).some(([text, context]) => this.resealText(text, context) !== undefined);
  }

  /** Whether no key opens some value of the record. */
  isUnreadable(upload: Upload): boolean {
    return this.sealedTexts(upload).some(([text, context]) => this.options.ring.open(text, context) === undefined);
  }

  private sealedTexts(upload: Upload): [text: string, context: string][] {
    const { id, withheld, answer, undelivered } = upload;
    const answers = [answer?.withheld, undelivered?.answer?.withheld].flatMap((kept) => kept ?? []);
    return [
      ...(withheld?.sealed ? [[withheld.sealed, contextOf(upload)] satisfies [string, string]] : []),
      ...answers.map(({ lines, sealed }): [string, string] => [sealed, answerContext(id, lines)]),
    ];
  }

  private resealRequest(upload: Upload, credentials?: readonly string[]): ResealedFields | undefined {
    const { withheld } = upload;
    if (!withheld) {
      const stored = this.withhold(upload, credentials);
      if (stored === upload) return undefined;
      const { request, addedHeaders } = stored;
      return { request, ...(addedHeaders && { addedHeaders }), withheld: stored.withheld! };
    }
    const sealed = withheld.sealed && this.resealText(withheld.sealed, contextOf(upload));
    return sealed ? { withheld: { ...withheld, sealed } } : undefined;
  }

  private resealAnswer(id: string, answer: Answer): Answer | undefined {
    const { withheld } = answer;
    if (!withheld) {
      const stored = this.withholdAnswer(id, answer);
      return stored === answer ? undefined : stored;
    }
    const sealed = this.resealText(withheld.sealed, answerContext(id, withheld.lines));
    return sealed === undefined ? undefined : { ...answer, withheld: { ...withheld, sealed } };
  }

  /** Undefined if the current key has sealed the text, or no key opens it. */
  private resealText(sealed: string, context: string): string | undefined {
    const { ring } = this.options;
    if (keyIdOf(sealed) === ring.sealsWith) return undefined;
    const text = ring.open(sealed, context);
    return text === undefined ? undefined : ring.seal(text, context);
  }

  private open(upload: Secretive): SealedContent | undefined {
    const sealed = upload.withheld?.sealed;
    return sealed === undefined ? undefined : this.parse(this.options.ring.open(sealed, contextOf(upload)));
  }

  private parse(text: string | undefined): SealedContent | undefined {
    return text === undefined ? undefined : (JSON.parse(text) as SealedContent);
  }

  private secretIndexes(headers: Headers, credentials: readonly string[]): number[] {
    return headers.flatMap((line, at) => (this.isSecret(line, credentials) ? [at] : []));
  }

  private isSecret([name, value]: HeaderLine, credentials: readonly string[]): boolean {
    const key = name.toLowerCase();
    return this.fields.has(key) || credentials.includes(key) || this.hasUploadUrl(value);
  }

  private hasUploadUrl(value: string): boolean {
    return value.includes(this.lastSegment) && this.uploadUrl.test(value);
  }
}

/** A URL in the query of another one has its slashes percent-encoded. */
const SLASH = '(?:/|%(?:25)*2[Ff])';

/** A sealed text belongs to its upload and to the fields whose values it has, in their order. */
function contextOf({ id, request, addedHeaders = [], withheld }: Secretive): string {
  const { lines = [], added = [] } = withheld ?? {};
  const names = [...lines.map((at) => request.headers[at]), ...added.map((at) => addedHeaders[at])];
  return JSON.stringify([id, lines.length, ...names.map((line) => line?.[0].toLowerCase() ?? null)]);
}

function answerContext(id: string, lines: readonly number[]): string {
  return JSON.stringify([id, 'answer', lines]);
}

function withoutValues(headers: Headers, lines: readonly number[]): Headers {
  const withheld = new Set(lines);
  return headers.map(([name, value], at): HeaderLine => [name, withheld.has(at) ? '' : value]);
}

/**
 * Puts the values back. Where one cannot be had, the lines of that name in `fresh` take the place of the first such line;
 * without any, the line is left out and its name is missing.
 */
function withValues(
  headers: Headers,
  lines: Withheld['lines'],
  values: SealedContent['values'],
  fresh: Headers,
): { readonly headers: Headers; readonly missing: readonly string[] } {
  const places = new Map(lines.map((line, at) => [line, values[at] ?? undefined]));
  const missing = new Set<string>();
  const replaced = new Set<string>();
  const restored = headers.flatMap((line, at): HeaderLine[] => {
    if (!places.has(at)) return [line];
    const [name] = line;
    const value = places.get(at);
    if (value !== undefined) return [[name, value]];
    const key = name.toLowerCase();
    const lines = fresh.filter(([other]) => other.toLowerCase() === key);
    if (lines.length === 0) missing.add(key);
    if (replaced.has(key)) return [];
    replaced.add(key);
    return [...lines];
  });
  return { headers: restored, missing: [...missing] };
}
