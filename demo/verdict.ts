import { isDeepStrictEqual } from 'node:util';
import type { Answer } from './client.js';
import type { DemoFile } from './file.js';
import type { OriginUpload } from './plain-origin.js';

export interface Claim {
  readonly what: string;
  readonly seen: string;
  readonly holds: boolean;
}

export interface Outcome {
  readonly file: DemoFile;
  readonly target: string;
  readonly received: readonly OriginUpload[];
  readonly answer: Answer;
  readonly cuts: number;
  readonly kills: number;
  /** An offset was lower than one shown before. */
  readonly wentBack: boolean;
}

/** What the demo claims, each with what was really seen. */
export function judge(outcome: Outcome): { readonly onTheWay: Claim[]; readonly atTheOrigin: Claim[] } {
  const { cuts, kills, wentBack } = outcome;
  return {
    onTheWay: [
      { what: 'trouble', seen: `${cuts} cuts, ${kills} kill -9`, holds: cuts === 3 && kills === 1 },
      {
        what: 'offsets',
        seen: wentBack ? 'went back' : 'never went back: no acknowledged byte was lost',
        holds: !wentBack,
      },
    ],
    atTheOrigin: claimsOfOrigin(outcome),
  };
}

function claimsOfOrigin({ file, target, received, answer }: Outcome): Claim[] {
  const [upload] = received;
  const requests = received.map((request) => `${request.method} ${request.target}`).join(', ');
  const length = upload && headerOf(upload, 'content-length');
  const traces = upload ? uploadFields(upload) : [];
  return [
    {
      what: 'requests',
      seen: `${received.length}: ${requests}`,
      holds: received.length === 1 && upload?.method === 'POST' && upload.target === target,
    },
    {
      what: 'headers',
      seen: `Content-Length: ${length ?? '–'}, ${traces.join(', ') || 'no trace of the upload protocol'}`,
      holds: length === `${file.size}` && traces.length === 0,
    },
    { what: 'body', seen: `${upload?.size ?? 0} bytes`, holds: upload?.whole === true && upload.size === file.size },
    { what: 'SHA-256', seen: upload?.sha256 ?? 'none', holds: upload?.sha256 === file.sha256 },
    { what: "the file's", seen: file.sha256, holds: upload?.sha256 === file.sha256 },
    {
      what: 'its answer',
      seen: `as the client got it: ${answer.status} ${answer.reason} ${answer.body.trim().slice(0, 30)}…`,
      holds: answer.status === 201 && isDeepStrictEqual(parsed(answer.body), upload?.answer),
    },
  ];
}

function headerOf(upload: OriginUpload, name: string): string | undefined {
  const at = upload.headers.findIndex((text, index) => index % 2 === 0 && text.toLowerCase() === name);
  return at < 0 ? undefined : upload.headers[at + 1];
}

function uploadFields(upload: OriginUpload): string[] {
  return upload.headers.filter((text, index) => index % 2 === 0 && /^upload-/i.test(text));
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}
