"""What each finding of the audit will do to the model, how to mend it, and whether `adslm dataset --repair` does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .finding import Finding


class Words(NamedTuple):
    """Effect and cure of one finding, each in Japanese and English, and whether the repair mends it."""

    effect_ja: str
    effect_en: str
    cure_ja: str
    cure_en: str
    repairable: bool = False


_REPAIR_JA, _REPAIR_EN = "`adslm dataset --repair` で直せます。", "`adslm dataset --repair` does it."

WORDS = {
    "few_prompts": Words(
        "モデルは依頼の読み方を学べず、どの依頼にも同じ調子で答えます。",
        "The model cannot learn to read a brief, and answers every one alike.",
        "商品・対象・訴求の違う依頼を 20 種類以上に増やしてください。",
        "Use at least 20 prompts that differ in product, audience or selling point.",
    ),
    "few_chosen": Words(
        "モデルはその文を丸ごと覚え、そのまま書くようになります。",
        "The model memorises these texts and writes them as they are.",
        "行ごとに違う chosen を用意してください。",
        "Give each row a chosen text of its own.",
    ),
    "few_rejected": Words(
        "モデルはその文を避けることだけを覚え、良し悪しを学びません。",
        "The model learns to avoid these very texts, and nothing of what makes a text good.",
        "行ごとに違う、実際に起こりそうな rejected を用意してください（学習前のモデルの出力など）。",
        "Give each row a rejected text of its own that could really occur (output of the untuned model, for instance).",
    ),
    "surface_rule": Words(
        "モデルは良し悪しでなくこれを学び、報酬の正解率だけが高くなります。",
        "The model learns this instead of quality, and its reward accuracy looks perfect for nothing.",
        f"両側の見た目（記号・末尾・長さ）をそろえてください。末尾の記号の連続なら {_REPAIR_JA}",
        f"Match marks, endings and lengths of the two sides. A run of marks at the end: {_REPAIR_EN}",
        True,
    ),
    "prompt_blind": Words(
        "依頼と関係なく通じる言い回しだけで対が解けるため、モデルは依頼への答え方を学びません。",
        "The pairs can be solved without the prompt, by phrases alone: the model does not learn to answer a brief.",
        "chosen と rejected を同じ書き手・同じ方法で作り、違いを依頼への答え方だけにしてください。",
        "Make both sides by the same writer or method, so that they differ in how they answer the brief.",
    ),
    "length_imbalance": Words(
        "モデルは内容より先に長さを学び、学習が進むほど極端な長さの文を書きます。",
        "The model learns the length before the content, and writes ever longer (or shorter) texts as training goes on.",
        "両側の長さを近づけてください（長い方を短く書き直すか、長さの近い対だけを使います）。",
        "Bring the lengths together (rewrite the longer side, or keep the pairs of like length).",
    ),
    "length_disobeyed": Words(
        "モデルは文字数の指定を破ることを学びます。",
        "The model learns to break the length it is given.",
        f"指定を守る文を chosen にしてください。指定を破る chosen の行は {_REPAIR_JA}",
        f"Choose texts that keep it. Dropping the rows whose chosen breaks what rejected keeps: {_REPAIR_EN}",
        True,
    ),
    "words_disobeyed": Words(
        "モデルは依頼の指定（商品名・訴求・使う言葉・使わない言葉）を無視することを学びます。",
        "The model learns to ignore what the brief asks for (product, selling point, words to use or to avoid).",
        "指定を守る文を chosen にしてください。",
        "Choose texts that keep it.",
    ),
    "duplicates": Words(
        "同じ対を何度も学ぶため、その文を丸暗記しやすくなります。",
        "The model sees these pairs more often than the others, and tends to memorise them.",
        f"データの作り方を確かめてください。重複の削除は {_REPAIR_JA}",
        f"Check how the data was made. Dropping them: {_REPAIR_EN}",
        True,
    ),
    "near_duplicates": Words(
        "件数のわりに学べることが少なく、似た文を丸暗記しやすくなります。",
        "There is less to learn than the number of rows says, and such texts tend to be memorised.",
        f"違う内容の対を足してください。ほぼ同じ（95 % 以上）対の削除は {_REPAIR_JA}",
        f"Add pairs that differ in content. Dropping those that are 95 % alike or more: {_REPAIR_EN}",
        True,
    ),
    "reversed_pairs": Words(
        "互いに打ち消し合い、何も学べません。",
        "They cancel each other: nothing is learnt from them.",
        f"どちらが良いかを決めてください。両方とも除くのは {_REPAIR_JA}",
        f"Decide for one. Dropping both: {_REPAIR_EN}",
        True,
    ),
    "contradictions": Words(
        "どの文が良いかが一周して決まらず、学習の信号が打ち消し合います。",
        "Which text is better goes round in a circle, so that the labels cancel each other.",
        f"順位を付け直してください。その行を除くのは {_REPAIR_JA}",
        f"Rank these texts anew. Dropping the rows: {_REPAIR_EN}",
        True,
    ),
    "few_eval_groups": Words(
        "評価側の数値（正解率・勝率）は偶然に左右され、改善の証拠になりません。この数値は約束できません。",
        "Held-out numbers (accuracy, win rate) are then a matter of chance and prove nothing: none is promised.",
        "互いに関係のないプロンプトを増やしてください（評価側に 20 種類、15 % を取り分けるなら全体で 140 種類ほど）。",
        "Add prompts that have nothing in common (20 to hold out, which is about 140 in all when 15 % are held out).",
    ),
    "prompts_on_both_sides": Words(
        "評価が学習データの暗記を測ってしまい、良すぎる数値になります。",
        "Evaluation then measures memory of the training data, and its numbers are too good.",
        "行ではなくプロンプトの組ごとに分けてください（`adslm dataset` はそうします）。",
        "Split by groups of prompts, not by rows (`adslm dataset` does).",
    ),
    "answers_on_both_sides": Words(
        "評価側の正解率は、学習で見た文を覚えているかどうかで決まり、高めに出ます。",
        "Held-out accuracy then tells whether texts of the training side are remembered, and comes out too high.",
        "使い回しの応答文を減らしてください。",
        "Re-use fewer answers.",
    ),
    "near_answers_on_both_sides": Words(
        "評価側の正解率が、似た文の暗記によって高めに出ます。",
        "Held-out accuracy comes out too high, for likenesses of these texts were learnt.",
        "言い回しだけを変えた応答文を減らしてください。",
        "Use fewer answers that are variants of one another.",
    ),
    "ad_rules": Words(
        "モデルは規則に触れる表現を「良い広告」として学び、そう書くようになります。",
        "The model learns wording that breaks rules as good advertising, and will write it.",
        f"その表現を直すか、chosen から外してください（確認の補助であり、法的助言ではありません）。「error」の行を除くのは {_REPAIR_JA}",
        f"Reword these texts or do not choose them (a review aid, not legal advice). Dropping those of severity error: {_REPAIR_EN}",
        True,
    ),
    "mojibake": Words(
        "モデルは壊れた文字列を書くようになります。",
        "The model learns to write broken characters.",
        f"元のデータを正しい文字コードで書き出してください。元に戻せる文字化けは {_REPAIR_JA}",
        f"Export the data anew in the right encoding. Where the bytes are whole: {_REPAIR_EN}",
        True,
    ),
    "width": Words(
        "同じ言葉が別のトークンになり、少ないデータがさらに分かれます。媒体によっては入稿できません。",
        "One word becomes different tokens, which thins out little data; some platforms refuse such text.",
        f"全角・半角をそろえ、見えない文字を除いてください。{_REPAIR_JA}",
        f"Use one width, and no characters that cannot be seen. {_REPAIR_EN}",
        True,
    ),
    "language": Words(
        "モデルは日本語の依頼に別の言語で答えることを学びます。",
        "The model learns to answer a Japanese brief in another language.",
        "日本語の chosen に差し替えるか、その行を除いてください。",
        "Replace these chosen texts by Japanese ones, or leave the rows out.",
    ),
    "degenerate": Words(
        "モデルは壊れた文（くり返し・記号だけ・指示の丸写し）を良い文として学びます。",
        "The model learns broken text (repetition, symbols only, the brief given back) as good text.",
        "その行の chosen を書き直すか、除いてください。",
        "Rewrite the chosen text of these rows, or leave them out.",
    ),
}


def finding(code: str, severity: str, number: float, ja: str, en: str, examples: Sequence[str] = ()) -> Finding:
    """The finding `code` with its words."""
    return Finding(code, severity, number, ja, en, **WORDS[code]._asdict(), examples=list(examples))
