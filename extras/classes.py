"""Names of cells: how data sets write the life stages, and which classes are used."""

import functools
import re

from extras.records import DataError

STAGES = ("ring", "trophozoite", "schizont", "gametocyte")
CLASS_SPELLINGS = {  # first match wins; names are lower case with single spaces between words
    "ring": r"\brings?\b",
    "trophozoite": r"\btroph(s|o|ozoites?)?\b",
    "schizont": r"\bschi[sz]onts?\b",
    "gametocyte": r"\bgamet(es?|ocytes?)\b",
    "difficult": r"\bdifficult\b",
    "red blood cell": r"^(uninfected|healthy)( cells?)?$"
    r"|^((uninfected|healthy) )?(red ?blood ?(cells?|corpuscles?)?|rbcs?|erythrocytes?)$",
    "leukocyte": r"^(leu[ck]ocytes?|wbcs?|white ?blood ?(cells?|corpuscles?)?)$",
}


def canonical_class(name):
    """'P_vivax Rings' -> 'ring'; a name that is not known is kept in lower case.

    Only whole words count: a schistocyte is no schizont, a ringed sideroblast no ring. A name that
    denies one, or has two stages, is kept too.
    """
    return canonical_text(str(name))


@functools.lru_cache(10_000)  # it is asked about every cell
def canonical_text(name):
    """canonical_class of a name that is text."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = re.sub(r"[\s_\-.,]+", " ", spaced).strip().lower()
    found = [known for known, pattern in CLASS_SPELLINGS.items() if re.search(pattern, words)]
    stages = [known for known in found if known in STAGES]
    is_denied = re.search(r"\b(non?|not|without|signet)\b", words)
    if not found or len(stages) > 1 or (stages and is_denied):
        return words
    return found[0]


def is_known_class(name):
    """Whether a name is one of a life stage or of another known cell."""
    return canonical_class(name) in CLASS_SPELLINGS


def choose_classes(found, asked, some_may_be_missing=False):
    """The classes to use of those found, a set.

    asked: names by commas, or "auto" for the life stages, or, without these, all but "difficult".
    Raises DataError if none of the names is found, or, unless some_may_be_missing, if one is
    neither found nor in CLASS_SPELLINGS: it may be misspelt.
    """
    if asked == "auto":
        stages = [stage for stage in STAGES if stage in found]
        return stages or sorted(found - {"difficult"}) or sorted(found)
    names = list(dict.fromkeys(canonical_class(name) for name in asked.split(",")))
    unknown = set(names) - found - set(CLASS_SPELLINGS)
    if not found & set(names) or (unknown and not some_may_be_missing):
        raise DataError(
            f"--classes {asked}: not all of these are in the data, "
            f"which has {', '.join(sorted(found))}"
        )
    return names


def shown_name(name, spellings):
    """The name of a class as the data mostly has it; stages go by their canonical names.

    spellings: {canonical name: Counter of the data's names}.
    """
    if name in STAGES or name not in spellings:
        return name
    return spellings[name].most_common(1)[0][0]


def note_unused_classes(folder, found, classes, spellings):
    """Say which classes --classes auto leaves out, but for red cells, leukocytes and difficult."""
    usual = {"red blood cell", "leukocyte", "difficult"}
    unused = sorted(set(found) - set(classes) - usual)
    unused = [shown_name(name, spellings) for name in unused]
    if unused:
        ask = ",".join([*classes, *unused])
        folder.notes.append(f'not used: {", ".join(unused)}; to use them: --classes "{ask}"')
