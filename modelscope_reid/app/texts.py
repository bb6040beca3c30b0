"""Every text of the page, one table for each language.

In: a key and what goes into its {places}. Out: a sentence. A text that is drawn by our own HTML is there in every
language at once, and the page shows that of its language: so results are read in the other language without asking
again. Knows nothing of gradio.
"""

from __future__ import annotations

import html
from typing import Literal, get_args

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
LANGUAGE_NAMES: dict[Language, str] = {"en": "English", "zh": "中文"}
"""Each in its own words, so that whoever needs it can read it."""

_ENGLISH = {
    "page.title": "Find a person again",
    "page.sentence": "Drop a picture of somebody: the gallery says who it is and where else they were seen.",
    "page.language": "Language",
    "search.tab": "Search",
    "search.file": "Picture: drop it here, or click to choose",
    "search.frame": "If it shows more than the one you mean, click two corners of a box around them.",
    "search.corner": "One corner is set; click the opposite one.",
    "search.boxed": "Searching for whoever is in the box.",
    "search.clear": "Clear the box",
    "search.options": "Options",
    "search.top": "How many matches",
    "search.person": "Only this person",
    "search.camera": "Only this camera",
    "search.exclude_camera": "Not this camera",
    "search.since": "From (UTC)",
    "search.until": "Before (UTC)",
    "search.time_example": "2026-01-31T12:00",
    "search.any": "any",
    "search.none": "none",
    "search.rerank": "Re-rank by neighbours (slower, often better)",
    "search.run": "Search",
    "search.start": "Matches appear here.",
    "search.no_file": "Drop a picture first.",
    "search.matches": "Matches, most similar first",
    "search.nothing": "Nothing in the gallery passes these options.",
    "search.empty": "The gallery is empty: enrol pictures first.",
    "who.question": "Who is this?",
    "who.unknown": "Unknown",
    "who.unknown_reason": "Nobody in the gallery is similar enough.",
    "who.nearest": "Similarity to the nearest person: {similarity}.",
    "who.probability": "Probability that it is the same person: {percent}%.",
    "who.uncalibrated": "This model is not calibrated, so that it ranks but names nobody.",
    "match.same": "same",
    "match.unsure": "unsure",
    "match.different": "different",
    "match.similarity": "similarity {similarity}",
    "match.camera": "camera {camera}",
    "match.nobody": "no name",
    "match.no_picture": "no picture kept",
    "compare.tab": "Compare",
    "compare.first": "First picture",
    "compare.second": "Second picture",
    "compare.run": "Compare",
    "compare.start": "The verdict appears here.",
    "compare.no_files": "Drop two pictures first.",
    "compare.same": "The same person",
    "compare.unsure": "Cannot tell",
    "compare.unsure_reason": "Now and then strangers look as alike as this to the model.",
    "compare.different": "Two different people",
    "compare.uncalibrated": "Similarity only",
    "compare.uncalibrated_reason": "This model is not calibrated, so that it gives no verdict.",
    "compare.why": "Where the two agree",
    "compare.no_why": "This model cannot show where the two agree. {reason}",
    "gallery.tab": "Gallery",
    "gallery.images": "images",
    "gallery.people": "people",
    "gallery.cameras": "cameras",
    "gallery.unlabelled": "without a name",
    "gallery.enrol": "Enrol",
    "gallery.files": "Pictures: drop them here, or click to choose",
    "gallery.person": "Person",
    "gallery.camera": "Camera",
    "gallery.time": "Time (UTC)",
    "gallery.unknown": "not known",
    "gallery.enrol_run": "Enrol these pictures",
    "gallery.enrolled": "{added} new, {known} known already.",
    "gallery.failed": "{count} could not be read:",
    "gallery.browse": "Browse",
    "gallery.begins": "Name begins with",
    "gallery.who": "People",
    "gallery.more_people": "These are the first {count}; type how a name begins to see others.",
    "gallery.no_people": "Nobody here by that name.",
    "gallery.choose": "Choose a person to see their pictures.",
    "gallery.page": "Pictures {first} to {last}",
    "gallery.previous": "Previous",
    "gallery.next": "Next",
    "gallery.delete": "Delete this person",
    "gallery.sure": "Delete {person} and all their pictures ({count}) for good?",
    "gallery.delete_yes": "Yes, delete",
    "gallery.delete_no": "No, keep",
    "gallery.deleted": "{person} is gone: {count} pictures deleted.",
    "error.image": "The picture cannot be used.",
    "error.input": "That does not fit.",
    "error.busy": "Too many people are searching just now. Wait a moment and try again.",
    "error.gallery": "The gallery cannot be read or written just now. Try again, or tell whoever runs it.",
    "error.other": "The model could not do that.",
    "error.too_large": "The file is too large: a picture may have {megabytes} MB, and {count} may come at once.",
    "error.refused": "The server takes uploaded pictures only.",
    "error.gone": "The picture was uploaded too long ago. Drop it again.",
}

_CHINESE = {
    "page.title": "行人检索",
    "page.sentence": "放入一张人物图片，图库会告诉您这是谁，以及他还在哪里出现过。",
    "page.language": "语言",
    "search.tab": "检索",
    "search.file": "图片：拖到这里，或点击选择",
    "search.frame": "如果画面中不止一人，请点击两个对角，框出要找的人。",
    "search.corner": "已设定一个角，请点击对角。",
    "search.boxed": "将检索框中的人。",
    "search.clear": "清除方框",
    "search.options": "选项",
    "search.top": "结果数量",
    "search.person": "只看此人",
    "search.camera": "只看此摄像头",
    "search.exclude_camera": "排除此摄像头",
    "search.since": "起始时间（UTC）",
    "search.until": "截止时间之前（UTC）",
    "search.time_example": "2026-01-31T12:00",
    "search.any": "不限",
    "search.none": "无",
    "search.rerank": "按近邻重排（较慢，通常更准）",
    "search.run": "检索",
    "search.start": "结果显示在这里。",
    "search.no_file": "请先放入一张图片。",
    "search.matches": "检索结果，最相似的在前",
    "search.nothing": "图库中没有符合这些选项的图片。",
    "search.empty": "图库是空的，请先登记图片。",
    "who.question": "这是谁？",
    "who.unknown": "未知",
    "who.unknown_reason": "图库中没有足够相似的人。",
    "who.nearest": "与最相近的人的相似度：{similarity}。",
    "who.probability": "是同一人的概率：{percent}%。",
    "who.uncalibrated": "此模型未经校准，只能排序，不能指认。",
    "match.same": "同一人",
    "match.unsure": "不确定",
    "match.different": "不同人",
    "match.similarity": "相似度 {similarity}",
    "match.camera": "摄像头 {camera}",
    "match.nobody": "未命名",
    "match.no_picture": "未保存图片",
    "compare.tab": "比对",
    "compare.first": "第一张图片",
    "compare.second": "第二张图片",
    "compare.run": "比对",
    "compare.start": "结论显示在这里。",
    "compare.no_files": "请先放入两张图片。",
    "compare.same": "同一个人",
    "compare.unsure": "无法判断",
    "compare.unsure_reason": "在模型看来，陌生人有时也会这样相似。",
    "compare.different": "两个不同的人",
    "compare.uncalibrated": "仅有相似度",
    "compare.uncalibrated_reason": "此模型未经校准，不能给出结论。",
    "compare.why": "两张图片的相似之处",
    "compare.no_why": "此模型无法显示两张图片的相似之处。{reason}",
    "gallery.tab": "图库",
    "gallery.images": "图片",
    "gallery.people": "人",
    "gallery.cameras": "摄像头",
    "gallery.unlabelled": "未命名",
    "gallery.enrol": "登记",
    "gallery.files": "图片：拖到这里，或点击选择",
    "gallery.person": "人物",
    "gallery.camera": "摄像头",
    "gallery.time": "时间（UTC）",
    "gallery.unknown": "未知",
    "gallery.enrol_run": "登记这些图片",
    "gallery.enrolled": "新增 {added} 张，已有 {known} 张。",
    "gallery.failed": "{count} 张无法读取：",
    "gallery.browse": "浏览",
    "gallery.begins": "名称开头",
    "gallery.who": "人物",
    "gallery.more_people": "这里只列出前 {count} 人，输入名称开头可查看其他人。",
    "gallery.no_people": "没有这个名称的人。",
    "gallery.choose": "选择一个人，查看其图片。",
    "gallery.page": "第 {first} 至 {last} 张",
    "gallery.previous": "上一页",
    "gallery.next": "下一页",
    "gallery.delete": "删除此人",
    "gallery.sure": "要永久删除 {person} 及其全部图片（{count} 张）吗？",
    "gallery.delete_yes": "是，删除",
    "gallery.delete_no": "否，保留",
    "gallery.deleted": "已删除 {person} 的 {count} 张图片。",
    "error.image": "这张图片无法使用。",
    "error.input": "输入不合适。",
    "error.busy": "现在使用的人太多，请稍候再试。",
    "error.gallery": "图库现在无法读写，请重试，或告知管理员。",
    "error.other": "模型无法完成。",
    "error.too_large": "文件太大：每张图片最多 {megabytes} MB，一次最多 {count} 张。",
    "error.refused": "服务器只接受上传的图片。",
    "error.gone": "图片上传已久，请重新放入。",
}

TEXTS: dict[Language, dict[str, str]] = {"en": _ENGLISH, "zh": _CHINESE}


def text(language: Language, key: str, **values: object) -> str:
    """Return a text with `values` in its {places}."""
    return TEXTS[language][key].format(**values)


def spoken(key: str, **values: object) -> str:
    """Return a text in every language as HTML, of which the page shows one; `values` are escaped."""
    return "".join(
        f'<span class="in-{language}" lang="{language}">{html.escape(text(language, key, **values))}</span>'
        for language in LANGUAGES
    )


def in_all(key: str, **values: object) -> str:
    """Return a text in every language on one plain line, for where the page cannot choose."""
    return " / ".join(text(language, key, **values) for language in LANGUAGES)


def language_of(accept_language: str, *, wanted: str = "") -> Language:
    """Return the language to begin with: the one `wanted`, else the first one known that a browser accepts.

    `accept_language` is the header of that name; English where it names none that is known.
    """
    weighed: list[tuple[float, int, str]] = []
    for place, part in enumerate(accept_language.split(",")):
        name, _, weight = part.strip().partition(";q=")
        try:
            weighed.append((-float(weight or 1.0), place, name))
        except ValueError:
            continue
    for name in (wanted, *(name for weight, _, name in sorted(weighed) if weight < 0.0)):
        for language in LANGUAGES:
            if name.lower().split("-")[0] == language:
                return language
    return "en"
