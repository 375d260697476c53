"""Which column of an ad log means what: the headings that Google, Yahoo!, LINE and Meta write, and how to say it otherwise."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from ...foreign_text import brief as shown
from ...recipe_rules import nearest
from ..rows import fail

ROLES = ("brief", "campaign", "channel", "device", "position", "date", "text", "impressions", "clicks", "conversions", "cost")
JOIN = " + "
"""Between two headings in a map: `text=広告見出し 1 + 広告見出し 2`."""
NUMBERS = ("impressions", "clicks", "conversions", "cost")
MOST_COLUMNS = 2000
# The first that a file has wins, so the order is from what says most about a text to what says least. Written as `_plain` leaves them.
_NAMES = {
    "brief": "brief ブリーフ お題 キーワード 検索キーワード keyword searchkeyword キーワード名 検索語句 searchterm searchquery テーマ 訴求 商品 商品名 product"
    " productname 広告グループ 広告グループ名 adgroup adgroupname 広告セット 広告セット名 広告セットの名前 adset adsetname testid"
    " clickabilitytestid ランディングページ landingpage 最終ページurl 最終ページのurl 最終リンク先url finalurl リンク先url linkurl url",
    "campaign": "キャンペーン キャンペーン名 キャンペーンの名前 campaign campaignname",
    "channel": "ネットワーク ネットワーク検索パートナーを含む network networkwithsearchpartners 媒体 媒体名 メディア media チャネル channel platform"
    " プラットフォーム publisherplatform 配信先 広告配信先 キャンペーンタイプ campaigntype",
    "device": "デバイス device 端末 端末種別 デバイスタイプ devicetype impressiondevice インプレッションデバイス deviceplatform デバイスプラットフォーム",
    "position": "掲載位置 位置 position placement 配置 配信面 広告枠 枠 slot 上部その他 topvsother",
    "date": "日 日付 日別 年月日 date day 月 年月 month 週 week 対象日 配信日 集計日 期間 period reportingstarts レポート開始日 レポートの開始日 開始日 createdat",
    "impressions": "表示回数 インプレッション数 インプレッション impressions impression impr imps imp imp数 表示数 広告表示回数 配信回数",
    "clicks": "リンクのクリック リンクのクリック数 linkclicks linkclick クリック数 クリック clicks click クリック回数",
    "conversions": "コンバージョン コンバージョン数 conversions conversion conv cv cv数 結果 results result 成果 成果数 購入 purchases",
    "cost": "費用 ご利用額 コスト cost spend amountspent 消化金額 利用金額 ご利用金額 広告費 金額",
}
# Each family stands for one text; numbered members ("見出し 1", "見出し 2") are shown together, so they are read together.
_TEXTS = (
    "広告見出し 見出し headline adheadline ヘッドライン headlines",
    "タイトル title 広告タイトル adtitle",
    "広告文 広告テキスト 広告コピー コピー adtext adcopy copy text テキスト 文言 メインテキスト primarytext 本文 body bodytext クリエイティブ creative アセット asset",
    "長い広告見出し longheadline",
    "説明文 広告の説明文 説明 description addescription",
)
_RATES = "クリック率 クリックスルー率 リンクのクリックスルー率 ctr linkctr"
_MEANING = {plain: (role, rank) for role, names in _NAMES.items() for rank, plain in enumerate(names.split())}
_FAMILY = {plain: rank for rank, names in enumerate(_TEXTS) for plain in names.split()}
_UNIT = re.compile(r"[(\[【〈<][^)\]】〉>]*[)\]】〉>]")
_NUMBERED = re.compile(r"(\D+?)(\d{0,2})")
_PAIRS = {"prompt", "chosen", "rejected"}


@dataclass(frozen=True)
class Columns:
    """The columns of one file: for each role the indices of its cells (several are joined), [] where there are none."""

    names: list[str]
    of: dict[str, list[int]]
    rate: int | None
    """The index of a click-through rate, which is compared with clicks / impressions and used for nothing else."""

    def header(self, role: str) -> str:
        """What the file calls it: 'クリック数', '広告見出し 1 + 広告見出し 2', or '' where it has none."""
        return JOIN.join(self.names[index] for index in self.of[role])

    def used(self) -> list[int]:
        """All indices that are read; the first column always, for the word 'Total' stands in it."""
        rate = [] if self.rate is None else [self.rate]
        return sorted({0, *rate, *(index for indices in self.of.values() for index in indices)})

    def ignored(self) -> list[str]:
        taken = {index for indices in self.of.values() for index in indices} | {self.rate}
        return [name for index, name in enumerate(self.names) if index not in taken and name]


def _plain(header: str) -> str:
    """A heading without what exports vary: width, case, units in brackets, spaces and marks."""
    text = unicodedata.normalize("NFKC", header).casefold()
    return re.sub(r"[\s_\-.:：・/／\"'#\ufeff\u200b]+", "", _UNIT.sub("", text))


def unique_names(cells: Iterable[str]) -> list[str]:
    """Headings on one line each; a second "クリック数" becomes "クリック数 (2)", so that a map can name it."""
    names: list[str] = []
    for cell in cells:
        name = plain = " ".join(cell.replace("\ufeff", "").split())
        count = 1
        while name and name in names:
            count += 1
            name = f"{plain} ({count})"
        names.append(name)
    return names


def recognised(cells: list[str], columns: dict[str, str]) -> int:
    """How many roles a row names if it is the header; the headings of the user's map count too."""
    plain = {_plain(cell) for cell in cells if len(cell) < 200}
    roles = {_MEANING[name][0] for name in plain if name in _MEANING}
    roles |= {"text" for name in plain if _family(name) is not None}
    asked = {_plain(part) for value in columns.values() for part in [value, *value.split(JOIN)] if part}
    return len(roles) + len(plain & asked - _MEANING.keys())


def understood(source: str, names: list[str], columns: dict[str, str]) -> Columns:
    """The roles of the headings `names`, corrected by `columns` (role -> heading, '' for none); raises DataError in words."""
    _refuse_unknown_roles(columns)
    if len(_PAIRS & {_plain(name) for name in names}) > 1:
        fail(
            f"{source} は広告の実績ではなく、対（prompt・chosen・rejected）のファイルです。→ adslm dataset {source} で読んでください。",
            f"{source} is no ad log but a file of pairs (prompt, chosen, rejected). -> Read it with: adslm dataset {source}",
        )
    chosen = {role: indices for role, value in columns.items() if (indices := _asked(source, role, value, names)) is not None}
    taken = {index for indices in chosen.values() for index in indices}
    of = {role: chosen.get(role, [] if role in columns else _found(role, names, taken)) for role in ROLES}
    if not of["brief"] and "brief" not in columns and "campaign" not in columns:
        of["brief"], of["campaign"] = of["campaign"], []  # all that says what the texts are for
    missing = [role for role in ("brief", "text", "impressions", "clicks") if not of[role] and columns.get(role) != ""]
    missing += [role for role in ("text", "impressions", "clicks") if columns.get(role) == ""]
    if missing:
        _refuse_missing(source, names, missing)
    _refuse_doubles(source, names, {role: of[role] for role in ROLES if role not in chosen})
    rate = next((index for index, name in enumerate(names) if _plain(name) in _RATES.split() and index not in taken), None)
    return Columns(names, of, rate)


def _refuse_unknown_roles(columns: dict[str, str]) -> None:
    for role in columns:
        if role not in ROLES:
            close = nearest(str(role)[:60], list(ROLES))
            fail(
                f"列の役割 {shown(role)} はありません。→ {close}（{', '.join(ROLES)}）",
                f"There is no column role {shown(role)}. -> {close} ({', '.join(ROLES)})",
            )


def _asked(source: str, role: str, value: str, names: list[str]) -> list[int]:
    """The indices of what the user named for a role."""
    whole = _index(value, names)
    parts = [value] if whole is not None or JOIN not in value else value.split(JOIN)
    if not value.strip():
        return []
    indices = []
    for part in parts:
        index = _index(part, names)
        if index is None:
            close, listing = nearest(part[:60], [name for name in names if name]), _listing(names)
            fail(
                f"{source}: {role} に指定された見出し {shown(part)} がありません。→ {close}。ある見出し: {listing}",
                f"{source}: the heading {shown(part)} given for {role} is not there. -> {close} Headings: {listing}",
            )
        indices.append(index)
    if len(indices) > 1 and role in (*NUMBERS, "date"):
        fail(
            f"{role} には1列だけ指定できます（{shown(value)}）。→ 列をつなげられるのは文字の列だけです。",
            f"{role} takes one column ({shown(value)}). -> Only columns of text can be joined.",
        )
    return indices


def _index(header: str, names: list[str]) -> int | None:
    """The column that a person means: as it stands, else without regard to width, case, spaces and units."""
    name = " ".join(header.split())
    if name in names:
        return names.index(name)
    plain = [_plain(known) for known in names]
    return plain.index(_plain(name)) if _plain(name) and plain.count(_plain(name)) == 1 else None


def _found(role: str, names: list[str], taken: set[int]) -> list[int]:
    if role == "text":
        return _texts(names, taken)
    ranked = [
        (_MEANING[plain][1], index)
        for index, plain in enumerate(map(_plain, names))
        if index not in taken and _MEANING.get(plain, ("",))[0] == role
    ]
    return [min(ranked)[1]] if ranked else []


def _family(plain: str) -> tuple[int, str, int] | None:
    """(rank of the family, name without its number, number) of a heading that names an ad's text."""
    if plain in _FAMILY:
        return _FAMILY[plain], plain, 0
    numbered = _NUMBERED.fullmatch(plain)
    return (_FAMILY[numbered[1]], numbered[1], int(numbered[2])) if numbered and numbered[1] in _FAMILY else None


def _texts(names: list[str], taken: set[int]) -> list[int]:
    found = [(*family, index) for index, name in enumerate(names) if index not in taken and (family := _family(_plain(name)))]
    if not found:
        return []
    rank, base, _, _ = min(found)
    return [index for *where, _, index in sorted(found) if where == [rank, base]]


def _refuse_missing(source: str, names: list[str], missing: list[str]) -> None:
    example = " ".join(f"--map {role}=見出し" for role in missing)
    english = " ".join(f"--map {role}=HEADING" for role in missing)
    fail(
        f"{source}: {'・'.join(missing)} の列が分かりません。見出し: {_listing(names)}。→ {example} のように教えてください。",
        f"{source}: no column for {', '.join(missing)} was recognised. Headings: {_listing(names)} -> Name it: {english}",
    )


def _refuse_doubles(source: str, names: list[str], found: dict[str, list[int]]) -> None:
    """Two columns of one heading, as under "PC" and "Mobile": which is meant cannot be known."""
    for role, indices in found.items():
        for index in indices:
            if (second := f"{names[index]} (2)") in names:
                fail(
                    f"{source}: 見出し {names[index][:40]} が2つ以上あります。→ --map '{role}={names[index][:40]}' か '{role}={second[:44]}' のように選んでください。",
                    f"{source}: the heading {names[index][:40]} stands there twice. -> Choose: --map '{role}={names[index][:40]}' or '{role}={second[:44]}'",
                )


def _listing(names: list[str], most: int = 30) -> str:
    named = [name[:40] for name in names if name]
    more = f", ... ({len(named):,})" if len(named) > most else ""
    return ", ".join(named[:most]) + more
