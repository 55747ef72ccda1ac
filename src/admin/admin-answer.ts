/** A response of the admin listener. */
export interface AdminAnswer {
  readonly status: number;
  readonly type?: string;
  readonly body?: string;
  readonly headers?: Readonly<Record<string, string>>;
}

/** What the admin listener needs to know of a request; none has a body that matters. */
export interface AdminRequest {
  readonly method: string;
  readonly path: string;
  readonly query: URLSearchParams;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  /** It came over a Unix socket, which no browser reaches. */
  readonly isOnSocket?: boolean;
}

export function json(status: number, value: unknown): AdminAnswer {
  return { status, type: 'application/json; charset=utf-8', body: `${JSON.stringify(value)}\n` };
}

const TITLES: Readonly<Record<number, string>> = {
  400: 'Bad Request',
  401: 'Unauthorized',
  403: 'Forbidden',
  404: 'Not Found',
  405: 'Method Not Allowed',
  409: 'Conflict',
  410: 'Gone',
  500: 'Internal Server Error',
  503: 'Service Unavailable',
};

/** A problem (RFC 9457): what was wrong and, in `detail`, what to do about it. */
export function problem(status: number, detail?: string, headers?: AdminAnswer['headers']): AdminAnswer {
  const told = { type: 'about:blank', title: TITLES[status], status, ...(detail === undefined ? {} : { detail }) };
  return {
    status,
    type: 'application/problem+json',
    body: `${JSON.stringify(told)}\n`,
    ...(headers ? { headers } : {}),
  };
}

/** RFC 9110 §15.5.6: with the methods that there are. */
export function methodNotAllowed(allowed: readonly string[]): AdminAnswer {
  return problem(405, undefined, { Allow: allowed.join(', ') });
}
