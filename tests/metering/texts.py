"""Real text to count: the same two sentences in many languages, and code. Written for these tests."""

LANGUAGES = {
    "English": "The meter counts what the model says, token by token. It doesn't guess: 1,234 tokens cost $0.0005.",
    "Chinese": "计量器逐个令牌地统计模型所说的话。它从不猜测：1234个令牌花费0.0005美元，下午3点30分开始计费。",
    "Japanese": "メーターはモデルの発言をトークンごとに数えます。推測はしません：1234トークンで約0.07円です。",
    "Korean": "미터는 모델이 말하는 것을 토큰 단위로 셉니다. 추측하지 않습니다: 1,234개의 토큰.",
    "Russian": "Счётчик считает то, что говорит модель, токен за токеном. Он не гадает: 1 234 токена — 0,05 рубля.",
    "Arabic": "يحسب العدّاد ما يقوله النموذج رمزًا رمزًا. إنه لا يخمّن: ١٢٣٤ رمزًا بسعر زهيد.",
    "Hindi": "मीटर मॉडल की कही बात को टोकन दर टोकन गिनता है। वह अनुमान नहीं लगाता: १२३४ टोकन।",
    "Hebrew": "המונה סופר את מה שהמודל אומר, אסימון אחר אסימון. הוא לא מנחש: 1,234 אסימונים.",
    "Thai": "มิเตอร์นับสิ่งที่โมเดลพูดทีละโทเค็น มันไม่เดา: ๑๒๓๔ โทเค็น",
    "Greek": "Ο μετρητής μετρά ό,τι λέει το μοντέλο, ένα προς ένα. Δεν μαντεύει: 1.234 μονάδες.",
    "German": "Der Zähler zählt, was das Modell sagt – Token für Token. Er rät nicht: „1.234 Stück“ kosten 0,05 €.",
    "Vietnamese": "Đồng hồ đếm từng từ mà mô hình nói ra. Nó không đoán: 1.234 mã thông báo.",
    "Turkish": "Sayaç, modelin söylediğini tek tek sayar. Tahmin etmez: 1.234 birim, çok ucuza.",
}

CODE = {
    "Python": 'def fold(records, *, at_s=0.0):\n    """Sum."""\n    return {k: sum(v) for k, v in records.items() if k != "x"}\n\n\n',
    "C": '#include <stdio.h>\nint main(void) {\n\tfor (int i = 0; i < 10; ++i) printf("%d\\n", i);\n\treturn 0;\n}\n',
    "JavaScript": "const f = async (x) => { await g(x ?? {}); return `${x}-${1e6}`; }; // done\r\n",
    "SQL": "SELECT a.id, COUNT(*) AS n FROM t a LEFT JOIN u ON a.id=u.id WHERE a.x >= 1000 GROUP BY 1;\n",
    "JSON": '{"a": [1, 2.5, -3e10, null, true], "bé": {"c": "d\\u00e9\\n"}, "日本": "語"}\n',
    "Shell": "for f in *.py; do grep -nE '^(def|class) ' \"$f\" | awk -F: '{print $1}'; done\n",
    "Markdown": "# Head\n\n- **bold** _it_ `code`\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```json\n{}\n```\n",
    "Maths": "∑_{i=1}^{n} x_i² ≤ ∫₀^∞ e^{-t} dt ⇒ √2 ≈ 1.41421356, α→β ∀ε>0\n",
}
