/** The events of an XMLHttpRequest that count bytes. */
interface ProgressEventLike {
  readonly loaded: number;
}

/** The part of XMLHttpRequest that appends need. */
interface XhrLike {
  readonly status: number;
  readonly statusText: string;
  readonly response: unknown;
  readonly upload: { onprogress: ((event: ProgressEventLike) => void) | null };
  responseType: string;
  withCredentials: boolean;
  onload: (() => void) | null;
  onloadend: (() => void) | null;
  open(method: string, url: string): void;
  setRequestHeader(name: string, value: string): void;
  getAllResponseHeaders(): string;
  send(body: unknown): void;
  abort(): void;
}

/** The globals of a page that Node or a service worker may lack. They are declared here, because Node's types have none. */
interface Browser {
  readonly XMLHttpRequest?: new () => XhrLike;
  /** Reading this property throws where a page may not store anything. */
  readonly localStorage?: {
    getItem(key: string): string | null;
    setItem(key: string, value: string): void;
    removeItem(key: string): void;
  };
  readonly location?: { readonly href: string };
  readonly navigator?: { readonly onLine?: boolean };
  readonly addEventListener?: (type: string, listener: () => void) => void;
  readonly removeEventListener?: (type: string, listener: () => void) => void;
}

/** The global object, as a page sees it. */
export const browser = globalThis as unknown as Browser;
