import type { ProblemType } from './problem.js';

/**
 * One deployed form of RUFH. Everything in which the drafts differ on the wire is a value here, so that no other file
 * asks for a version.
 */
export interface Dialect {
  /** What an upload remembers: the interop version, or `final` for the form without one. */
  readonly name: string;
  /** Told in `Upload-Draft-Interop-Version`. RUFH (every draft): a 104 without exactly the request's number is ignored. */
  readonly version?: string;
  /** Who gets a 104: every request of this form, only those of a proxy that was told to, or none. */
  readonly interim: 'always' | 'when-enabled' | 'never';
  /** Renamed and turned round in draft-02: `Upload-Incomplete: ?0` was the end. */
  readonly completeness: { readonly field: 'Upload-Incomplete' | 'Upload-Complete'; readonly whenComplete: boolean };
  /** Whether a 104 may tell the offset of a creation, and if it must, or must not, repeat the upload's `Location`. */
  readonly creationProgress: 'none' | 'without-location' | 'with-location';
  readonly appendProgress: boolean;
  /** The name that `Upload-Limit` has for the remaining seconds; undefined where the field does not exist. */
  readonly lifetimeLimit?: 'expires' | 'max-age';
  /** Limits on the size of an append hold for a creation's body as well. */
  readonly appendLimitsOnCreation: boolean;
  /** The media type that an append has to have. */
  readonly appendType?: typeof PARTIAL_UPLOAD;
  readonly wrongAppendTypeStatus: 400 | 415;
  readonly appendWithoutCompleteness: 'completes' | 'malformed';
  /** To an append with more to come. */
  readonly appendedStatus: 201 | 204;
  /** `Upload-Length` is told with the offset. */
  readonly sendsLength: boolean;
  /** The answer to a creation gets the upload's URL when the origin gave no `Location` of its own. */
  readonly answerLocation: 'upload-if-none' | 'origin-only';
  /** A cancellation that carries an offset or completeness is refused. */
  readonly strictCancel: boolean;
  /** A creation that says "more to come", of nothing, with length 0: this client never sends the end it announced. */
  readonly emptyCreationCompletes: boolean;
  /** `X-HTTP-Method-Override` on a POST, for browsers' sake. */
  readonly methodOverride: boolean;
  readonly problemTypes: readonly ProblemType[];
  /** To an append that does not fit a whole upload. */
  readonly alreadyComplete: { readonly status: 400 | 409; readonly type: ProblemType };
  readonly goneStatus: 404 | 410;
  /** The origin did not answer. */
  readonly undeliveredStatus: 502 | 503;
}

/** RUFH §6: the media type of what is appended. */
export const PARTIAL_UPLOAD = 'application/partial-upload';

/** draft-01: iOS 17. */
const interop3: Dialect = {
  name: '3',
  version: '3',
  interim: 'always',
  completeness: { field: 'Upload-Incomplete', whenComplete: false },
  creationProgress: 'none',
  appendProgress: false,
  appendLimitsOnCreation: false,
  wrongAppendTypeStatus: 415,
  appendWithoutCompleteness: 'completes',
  appendedStatus: 201,
  sendsLength: false,
  answerLocation: 'upload-if-none',
  strictCancel: true,
  emptyCreationCompletes: false,
  methodOverride: false,
  problemTypes: [],
  alreadyComplete: { status: 409, type: 'about:blank' },
  // The drafts up to 05 know no other status for an upload that is not active.
  goneStatus: 404,
  // Up to interop 8 no client takes a 503 for an invitation to come back: it is told what a gateway would tell it.
  undeliveredStatus: 502,
};

/** draft-02. No known client outside of tests. */
const interop4: Dialect = {
  ...interop3,
  name: '4',
  version: '4',
  completeness: { field: 'Upload-Complete', whenComplete: true },
};

/** draft-03: iOS 18.0, tus-js-client as `ietf-draft-03`. */
const interop5: Dialect = {
  ...interop4,
  name: '5',
  version: '5',
  creationProgress: 'without-location',
  appendProgress: true,
  emptyCreationCompletes: true,
  methodOverride: true,
};

/** draft-04 and -05: iOS 18.1 and later, tus-js-client as `ietf-draft-05`. */
const interop6: Dialect = {
  ...interop5,
  name: '6',
  version: '6',
  lifetimeLimit: 'expires',
  appendType: PARTIAL_UPLOAD,
  wrongAppendTypeStatus: 400,
  sendsLength: true,
  problemTypes: ['mismatching-upload-offset', 'completed-upload'],
  alreadyComplete: { status: 400, type: 'completed-upload' },
};

/** draft-06 to -08. */
const interop7: Dialect = {
  ...interop6,
  name: '7',
  version: '7',
  lifetimeLimit: 'max-age',
  wrongAppendTypeStatus: 415,
  appendWithoutCompleteness: 'malformed',
  appendedStatus: 204,
  answerLocation: 'origin-only',
  strictCancel: false,
  emptyCreationCompletes: false,
  methodOverride: false,
  problemTypes: ['mismatching-upload-offset', 'completed-upload', 'inconsistent-upload-length'],
  goneStatus: 410,
};

/** draft-09 to -11: pyrufh, Amphora. */
const interop8: Dialect = {
  ...interop7,
  name: '8',
  version: '8',
  alreadyComplete: { status: 400, type: 'inconsistent-upload-length' },
};

/** draft-12: completeness in an answer now says who speaks, the origin or the upload protocol. */
const interop9: Dialect = {
  ...interop8,
  name: '9',
  version: '9',
  creationProgress: 'with-location',
  appendLimitsOnCreation: true,
  problemTypes: ['mismatching-upload-offset', 'inconsistent-upload-length'],
  undeliveredStatus: 503,
};

/** draft-13 and later. */
const interop10: Dialect = { ...interop9, name: '10', version: '10', strictCancel: true };

/** What the RFC will be: the newest draft without its version header. */
export const final: Dialect = { ...interop10, name: 'final', version: undefined, interim: 'when-enabled' };

/** Every form we speak, by the name an upload remembers. */
export const dialects: ReadonlyMap<string, Dialect> = new Map(
  [interop3, interop4, interop5, interop6, interop7, interop8, interop9, interop10, final].map((dialect) => [
    dialect.name,
    dialect,
  ]),
);

/** RUFH, every draft: a 104 goes only to a request that named this very version. */
export function withoutInterim(dialect: Dialect): Dialect {
  return { ...dialect, interim: 'never' };
}

/** For somebody who named a version that is none of ours: another number in the answer could frighten him off. */
export function withoutVersion(dialect: Dialect): Dialect {
  return { ...withoutInterim(dialect), version: undefined };
}
