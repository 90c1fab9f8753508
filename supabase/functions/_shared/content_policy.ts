/**
 * The operator's content policy, applied before a prompt is queued, and again to an enhanced prompt. Workers judge nothing.
 *
 * Replace this file to use a moderation service: only `refuse` is called. This default compares words. It is a first barrier, not a
 * judgement: it does not look at pictures, and it refuses rather too much than too little where minors are concerned.
 *
 * - Sexual content about minors is refused to everyone. No permission changes that.
 * - Adult content and likenesses of real people are refused unless the user's tier permits them (table `tiers`).
 */
import { AGE_TERMS, CELEBRITY_TERMS, MINOR_TERMS, REAL_NAMES, SEXUAL_TERMS } from "./content_terms.ts";

/** What a request asks for. */
export interface Subject {
  /** Prompts and messages that say what to make. */
  texts: string[];
  /** What to avoid. It may turn an adult into a minor. */
  negativePrompt?: string;
  /** The user's pictures. `uploaded`: not made here, so it may show a real person; `character`: its face is to be kept. */
  references: { uploaded: boolean; character: boolean }[];
}

/** What a tier permits. */
export interface Permissions {
  adultContent: boolean;
  realPeople: boolean;
}

export interface Refusal {
  reason: "sexual_content_about_minors" | "adult_content" | "likeness_of_a_real_person";
  message: string;
}

/** Returns why a request is refused; undefined if it is permitted. */
// deno-lint-ignore require-await -- a replacement will ask a service
export async function refuse(subject: Subject, permissions: Permissions): Promise<Refusal | undefined> {
  const text = subject.texts.join("\n");
  const isSexual = mentions(text, SEXUAL_TERMS);
  if (isSexual && concernsMinors(text, subject.negativePrompt ?? "")) {
    return { reason: "sexual_content_about_minors", message: "Sexual content about minors is not permitted." };
  }
  if (isSexual && !permissions.adultContent) return { reason: "adult_content", message: "Adult content is not enabled for this account." };
  if (!permissions.realPeople && showsRealPerson(text, subject.references, isSexual)) {
    return { reason: "likeness_of_a_real_person", message: "Likenesses of real people are not enabled for this account." };
  }
  return undefined;
}

function concernsMinors(text: string, negativePrompt: string): boolean {
  return mentions(text, MINOR_TERMS) || hasMinorAge(text) || mentions(negativePrompt, AGE_TERMS);
}

function showsRealPerson(text: string, references: Subject["references"], isSexual: boolean): boolean {
  // An uploaded picture may be a photograph. It may be changed, but neither its face kept nor its content made sexual.
  const misuse = references.some(({ uploaded, character }) => uploaded && (character || isSexual));
  return misuse || mentions(text, CELEBRITY_TERMS) || mentions(text, REAL_NAMES);
}

const NUMBER_WORDS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen".split(
  " ",
);
const AGE = new RegExp(
  `\\b(?:(\\d{1,2}|${
    NUMBER_WORDS.join("|")
  })[\\s-]*(?:y(?:ea)?rs?[\\s-]*old|y\\.?\\s?/?o\\b)|(?:age|aged|age of|turned|turning)\\s+(\\d{1,2}|${NUMBER_WORDS.join("|")})\\b)`,
  "g",
);

/** Whether an age below 18 is named. */
function hasMinorAge(text: string): boolean {
  const normalized = text.normalize("NFKC").toLowerCase();
  return Array.from(normalized.matchAll(AGE), (match) => match[1] ?? match[2] ?? "").some((age) => {
    const years = /^\d+$/.test(age) ? Number(age) : NUMBER_WORDS.indexOf(age) + 1;
    return years < 18;
  });
}

const LOOKALIKES: Record<string, string> = { "0": "o", "1": "i", "3": "e", "4": "a", "5": "s", "7": "t", "@": "a", "$": "s", "!": "i" };

/** Lower case without accents and invisible characters, with letters instead of lookalikes and single spaces instead of punctuation. */
function normalize(text: string): string {
  const plain = text.normalize("NFKD").replace(/[\p{M}\p{Cf}]/gu, "").toLowerCase();
  const letters = plain.replace(/[013457@$!]/g, (character) => LOOKALIKES[character] ?? character);
  const words = letters.replace(/[^\p{L}\p{N}]+/gu, " ").trim();
  // "n u d e" is one word; the article of "a n u d e …" is not part of it.
  const spelled = Array.from(words.matchAll(/\b(?:\p{L} ){2,}\p{L}\b/gu), ([run]) => run.replaceAll(" ", ""));
  return ` ${[words, ...spelled, ...spelled.map((word) => word.slice(1))].join(" ")} `;
}

/** Whether one of the terms occurs as whole words, also in the plural; terms of scripts without spaces anywhere. */
function mentions(text: string, terms: readonly string[]): boolean {
  const normalized = normalize(text);
  return terms.some((term) => {
    if (/[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]/u.test(term)) return normalized.includes(term.normalize("NFKD"));
    return normalized.includes(` ${term} `) || normalized.includes(` ${term}s `) || normalized.includes(` ${term}es `);
  });
}
